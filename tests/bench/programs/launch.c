/*
 * Starts processes and tells how long they ran: launch DIRECTORY...
 *
 * Each directory holds `environ` (every variable with its NUL), `argv` (every word with its NUL) and
 * `stdin`; standard output goes to `stdout`. Everything is read before the clock starts. Printed
 * are the nanoseconds from the first start to the last end, then a line for each process:
 * nanoseconds, microseconds of CPU, exit code.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WORDS 256

struct job {
	char *argv[WORDS], *environ[WORDS];
	posix_spawn_file_actions_t files;
	pid_t pid;
	long long started, ended;
	struct rusage usage;
	int status;
};

static long long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static int opened(const char *directory, const char *name, int flags)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/%s", directory, name);
	int descriptor = open(path, flags | O_CLOEXEC, 0600);
	if (descriptor < 0)
		die(path);
	return descriptor;
}

static void words(const char *directory, const char *name, char **into)
{
	static const size_t room = 1 << 20;
	char *data = malloc(room), *at = data;
	int descriptor = opened(directory, name, O_RDONLY), n = 0;
	ssize_t length = read(descriptor, data, room);
	if (length < 0)
		die(name);
	for (; at < data + length && n < WORDS - 1; at += strlen(at) + 1)
		into[n++] = at;
	into[n] = NULL;
	close(descriptor);
}

static void prepare(struct job *job, const char *directory)
{
	words(directory, "argv", job->argv);
	words(directory, "environ", job->environ);
	posix_spawn_file_actions_init(&job->files);
	posix_spawn_file_actions_adddup2(&job->files, opened(directory, "stdin", O_RDONLY), 0);
	posix_spawn_file_actions_adddup2(&job->files, opened(directory, "stdout", O_WRONLY | O_CREAT | O_TRUNC), 1);
}

static struct job *of(struct job *jobs, int count, pid_t pid)
{
	for (int n = 0; n < count; n++)
		if (jobs[n].pid == pid)
			return &jobs[n];
	return NULL;
}

int main(int argc, char **argv)
{
	int count = argc - 1;
	struct job *jobs = calloc((size_t)count + 1, sizeof *jobs);
	long long started, ended;

	for (int n = 0; n < count; n++)
		prepare(&jobs[n], argv[n + 1]);
	started = now();
	for (int n = 0; n < count; n++) {
		jobs[n].started = now();
		if (posix_spawn(&jobs[n].pid, jobs[n].argv[0], &jobs[n].files, NULL, jobs[n].argv, jobs[n].environ))
			die(jobs[n].argv[0]);
	}
	for (int left = count; left; left--) {
		struct rusage usage;
		int status;
		pid_t pid = wait4(-1, &status, 0, &usage);
		struct job *job = of(jobs, count, pid);
		if (!job)
			die("wait4");
		job->ended = now();
		job->usage = usage;
		job->status = status;
	}
	ended = now();
	printf("%lld\n", ended - started);
	for (int n = 0; n < count; n++) {
		struct job *job = &jobs[n];
		long long cpu = (job->usage.ru_utime.tv_sec + job->usage.ru_stime.tv_sec) * 1000000ll +
				job->usage.ru_utime.tv_usec + job->usage.ru_stime.tv_usec;
		printf("%lld %lld %d\n", job->ended - job->started, cpu,
		       WIFEXITED(job->status) ? WEXITSTATUS(job->status) : 128 + WTERMSIG(job->status));
	}
	return 0;
}
