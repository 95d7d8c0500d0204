/*
 * What the runtime executes: it hands a CNI call to the daemon as it is, and prints the answer.
 *
 * It parses nothing, needs nothing and costs what starting a process costs. Frames are those of
 * meta_cni/daemon/wire.py. When there is no daemon, a DEL is kept in the spool, durably, and
 * answered with success, for the daemon does it first thing when it comes back; everything else is
 * told to try again later (CNI 1.1.0, error codes 11 and 50).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef SOCKET
#define SOCKET "/run/meta-cni/meta-cni.sock"
#endif
#ifndef SPOOL
#define SPOOL "/var/lib/meta-cni/spool"
#endif
#define PROTOCOL "meta-cni 1"
#define LONGEST_STDIN (16u << 20)
#define LONGEST_ANSWER (64u << 20)
#define TRY_AGAIN_LATER 11 /* CNI 1.1.0 */
#define NOT_AVAILABLE 50
#define IO_FAILURE 5
#define VERSIONS                                                                                   \
	"{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.1.0\",\"0.2.0\",\"0.3.0\",\"0.3.1\","    \
	"\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n"

extern char **environ;

static const char *const SENT[] = {"CNI_",	  "META_CNI_",	 "PATH=", "TRACEPARENT=",
				   "TRACESTATE=", "BAGGAGE=", NULL};

struct bytes {
	char *data;
	size_t length, room;
};

static const char *variable(const char *name, const char *otherwise)
{
	const char *value = getenv(name);
	return value && *value ? value : otherwise;
}

static int is(const char *command)
{
	return strcmp(variable("CNI_COMMAND", ""), command) == 0;
}

/* One CNI error object; what is in it needs no escaping. */
static int fail(int code, const char *doing, const char *what)
{
	printf("{\"cniVersion\":\"1.1.0\",\"code\":%d,\"msg\":\"%s %s: %s\"}\n", code, doing, what,
	       strerror(errno));
	fflush(stdout);
	return 1;
}

static int room_for(struct bytes *buffer, size_t more)
{
	size_t room = buffer->room ? buffer->room : 65536;
	char *data;

	while (room < buffer->length + more)
		room *= 2;
	if (room == buffer->room)
		return 0;
	data = realloc(buffer->data, room);
	if (!data)
		return -1;
	buffer->data = data;
	buffer->room = room;
	return 0;
}

static int append(struct bytes *buffer, const char *data, size_t length)
{
	if (room_for(buffer, length))
		return -1;
	memcpy(buffer->data + buffer->length, data, length);
	buffer->length += length;
	return 0;
}

/* Everything up to the end; EFBIG beyond the limit. */
static int read_all(int descriptor, struct bytes *buffer, size_t longest)
{
	ssize_t got;

	for (;;) {
		if (room_for(buffer, 65536))
			return -1;
		got = read(descriptor, buffer->data + buffer->length, 65536);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -1 : 0;
		buffer->length += (size_t)got;
		if (buffer->length > longest) {
			errno = EFBIG;
			return -1;
		}
	}
}

static int write_all(int descriptor, const struct bytes *buffer)
{
	size_t done = 0;
	ssize_t put;

	while (done < buffer->length) {
		put = write(descriptor, buffer->data + done, buffer->length - done);
		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -1;
		done += (size_t)put;
	}
	return 0;
}

static int is_sent(const char *entry)
{
	int n;

	for (n = 0; SENT[n]; n++)
		if (strncmp(entry, SENT[n], strlen(SENT[n])) == 0)
			return 1;
	return 0;
}

/* "meta-cni 1 request VARIABLES STDIN\n", the variables each with its NUL, standard input. */
static int frame(struct bytes *request)
{
	struct bytes variables = {0}, given = {0};
	char head[80];
	int n, length;

	for (n = 0; environ[n]; n++)
		if (is_sent(environ[n]) && append(&variables, environ[n], strlen(environ[n]) + 1))
			return -1;
	if (read_all(STDIN_FILENO, &given, LONGEST_STDIN))
		return -1;
	length = snprintf(head, sizeof head, PROTOCOL " request %zu %zu\n", variables.length, given.length);
	return append(request, head, (size_t)length) ||
	       append(request, variables.data, variables.length) ||
	       append(request, given.data, given.length);
}

/* A socket that does not wait for a daemon whose queue is full. */
static int connected(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int daemon;

	if (strlen(path) >= sizeof address.sun_path) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(address.sun_path, path);
	daemon = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (daemon < 0)
		return -1;
	if (connect(daemon, (struct sockaddr *)&address, sizeof address)) {
		close(daemon);
		return -1;
	}
	fcntl(daemon, F_SETFL, 0);
	return daemon;
}

/* The exit code when the whole answer was printed, -1 when there is none, -2 for another protocol. */
static int ask(int daemon, const struct bytes *request)
{
	struct bytes answer = {0};
	size_t length;
	char *body;
	int code, at = 0;

	if (write_all(daemon, request) && errno != EPIPE) /* a refusal may be there all the same */
		return -1;
	shutdown(daemon, SHUT_WR);
	if (read_all(daemon, &answer, LONGEST_ANSWER) && (errno != ECONNRESET || !answer.length))
		return -1; /* one that hangs up before it has read all of it may have answered */
	if (room_for(&answer, 1))
		return -1;
	if (answer.length == 0) {
		errno = ECONNRESET;
		return -1;
	}
	answer.data[answer.length] = 0;
	if (sscanf(answer.data, PROTOCOL " answer %d %zu%n", &code, &length, &at) != 2 || answer.data[at] != '\n')
		return memchr(answer.data, '\n', answer.length) ? -2 : (errno = ECONNRESET, -1);
	body = answer.data + at + 1;
	if (answer.length - (size_t)at - 1 != length) {
		errno = ECONNRESET;
		return -1;
	}
	answer.data = body;
	answer.length = length;
	if (write_all(STDOUT_FILENO, &answer))
		return 1;
	return code;
}

static int sync_directory(const char *path)
{
	int result, descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (descriptor < 0)
		return -1;
	result = fsync(descriptor);
	close(descriptor);
	return result;
}

static int written(const char *path, const struct bytes *request)
{
	int result, descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (descriptor < 0)
		return -1;
	result = write_all(descriptor, request) || fsync(descriptor);
	close(descriptor);
	return result;
}

/* Keep a DEL for the daemon: written beside, synced, renamed, so that it is whole or not there. */
static int spool(const struct bytes *request)
{
	const char *directory = variable("META_CNI_SPOOL", SPOOL);
	char path[4096], temporary[4096 + 8];
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	mkdir(directory, 0700);
	if (snprintf(path, sizeof path, "%s/%020lld%09ld-%ld.request", directory, (long long)now.tv_sec,
		     now.tv_nsec, (long)getpid()) >= (int)sizeof path) {
		errno = ENAMETOOLONG;
		return fail(IO_FAILURE, "spool DEL in", directory);
	}
	snprintf(temporary, sizeof temporary, "%s.new", path);
	if (written(temporary, request) || rename(temporary, path) || sync_directory(directory)) {
		int why = errno;

		unlink(temporary);
		errno = why;
		return fail(IO_FAILURE, "spool DEL in", directory);
	}
	return 0;
}

int main(void)
{
	const char *path = variable("META_CNI_SOCKET", SOCKET);
	struct bytes request = {0};
	int daemon, code = -1;

	signal(SIGPIPE, SIG_IGN); /* a daemon that goes away is an error of write() */
	if (is("VERSION")) {
		fputs(VERSIONS, stdout);
		return fflush(stdout) ? 1 : 0;
	}
	if (frame(&request))
		return fail(IO_FAILURE, "read", "standard input");
	daemon = connected(path);
	if (daemon >= 0)
		code = ask(daemon, &request);
	if (code >= 0)
		return code;
	if (code == -2) {
		errno = EPROTO;
		return fail(IO_FAILURE,
			    "talk to a daemon that does not speak \\\"" PROTOCOL
			    "\\\", install shim and daemon of one version:",
			    path);
	}
	if (is("DEL"))
		return spool(&request);
	return fail(is("STATUS") ? NOT_AVAILABLE : TRY_AGAIN_LATER,
		    "the meta-cni daemon is not there, try again later:", path);
}
