/*
 * What the runtime executes: it hands a CNI call to the daemon as it is, and prints the answer.
 *
 * It parses nothing, needs nothing and costs what starting a process costs. Frames are those of
 * meta_cni/daemon/wire.py. When there is no daemon, a DEL is kept in the spool, durably, and
 * answered with success, for the daemon does it first thing when it comes back; everything else is
 * told to try again later (CNI 1.1.0, error codes 11 and 50). One that is stopped is as good as none.
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
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef SOCKET
#define SOCKET "/run/meta-cni/meta-cni.sock"
#endif
#ifndef SPOOL
#define SPOOL "/var/lib/meta-cni/spool"
#endif
#define WAIT_S "300" /* the daemon itself answers within 240: Limits.answer_s of daemon/server.py */
#define PROTOCOL "meta-cni 1"
#define LONGEST_STDIN (16u << 20)
#define LONGEST_ANSWER (64u << 20)
#define SMALL 16384
#define PIECE 4096
#define TRY_AGAIN_LATER 11 /* CNI 1.1.0 */
#define NOT_AVAILABLE 50
#define IO_FAILURE 5
#define VERSIONS                                                                                   \
	"{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.1.0\",\"0.2.0\",\"0.3.0\",\"0.3.1\","    \
	"\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n"

extern char **environ;

static const char *const SENT[] = {"CNI_",	  "META_CNI_",	 "PATH=", "TRACEPARENT=",
				   "TRACESTATE=", "BAGGAGE=", NULL};

/* Small ones need no memory but the stack's. */
struct bytes {
	char *data;
	size_t length, room;
	char first[SMALL];
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

static void empty(struct bytes *buffer)
{
	buffer->data = buffer->first;
	buffer->length = 0;
	buffer->room = SMALL;
}

static int room_for(struct bytes *buffer, size_t more)
{
	size_t room = buffer->room;
	char *data;

	if (buffer->length + more <= room)
		return 0;
	while (room < buffer->length + more)
		room *= 2;
	data = realloc(buffer->data == buffer->first ? NULL : buffer->data, room);
	if (!data)
		return -1;
	if (buffer->data == buffer->first)
		memcpy(data, buffer->first, buffer->length);
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
		if (room_for(buffer, PIECE))
			return -1;
		got = read(descriptor, buffer->data + buffer->length, buffer->room - buffer->length);
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

/* A number in decimal digits, at least so many. */
static int append_number(struct bytes *buffer, unsigned long long number, int digits)
{
	char text[24];
	int at = sizeof text;

	do {
		text[--at] = (char)('0' + number % 10);
		number /= 10;
		digits--;
	} while (number || digits > 0);
	return append(buffer, text + at, sizeof text - (size_t)at);
}

static int append_text(struct bytes *buffer, const char *text)
{
	return append(buffer, text, strlen(text));
}

/* One CNI error object; what is in it needs no escaping. */
static int fail(int code, const char *doing, const char *what)
{
	const char *why = strerror(errno);
	struct bytes text;

	empty(&text);
	if (append_text(&text, "{\"cniVersion\":\"1.1.0\",\"code\":") ||
	    append_number(&text, (unsigned)code, 1) || append_text(&text, ",\"msg\":\"") ||
	    append_text(&text, doing) || append_text(&text, " ") || append_text(&text, what) ||
	    append_text(&text, ": ") || append_text(&text, why) || append_text(&text, "\"}\n") ||
	    write_all(STDOUT_FILENO, &text))
		return 1; /* there is nobody to be told */
	return 1;
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
	struct bytes variables, given;
	int n;

	empty(&variables);
	empty(&given);
	empty(request);
	for (n = 0; environ[n]; n++)
		if (is_sent(environ[n]) && append(&variables, environ[n], strlen(environ[n]) + 1))
			return -1;
	if (read_all(STDIN_FILENO, &given, LONGEST_STDIN))
		return -1;
	return append_text(request, PROTOCOL " request ") || append_number(request, variables.length, 1) ||
	       append_text(request, " ") || append_number(request, given.length, 1) ||
	       append_text(request, "\n") || append(request, variables.data, variables.length) ||
	       append(request, given.data, given.length);
}

/* A socket that waits neither for a daemon whose queue is full, nor for ever for one that is stopped. */
static int connected(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct timeval longest = {.tv_sec = strtol(variable("META_CNI_TIMEOUT", WAIT_S), NULL, 10)};
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
	setsockopt(daemon, SOL_SOCKET, SO_RCVTIMEO, &longest, sizeof longest);
	setsockopt(daemon, SOL_SOCKET, SO_SNDTIMEO, &longest, sizeof longest);
	return daemon;
}

/* The exit code when the whole answer was printed, -1 when there is none, -2 for another protocol. */
static int ask(int daemon, const struct bytes *request)
{
	static const char head[] = PROTOCOL " answer ";
	struct bytes answer;
	unsigned long length;
	char *at;
	long code;

	empty(&answer);
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
	code = 0;
	length = 0;
	at = NULL;
	if (strncmp(answer.data, head, sizeof head - 1) == 0) {
		code = strtol(answer.data + sizeof head - 1, &at, 10);
		length = strtoul(at, &at, 10);
	}
	if (!at || *at != '\n')
		return memchr(answer.data, '\n', answer.length) ? -2 : (errno = ECONNRESET, -1);
	answer.length -= (size_t)(++at - answer.data);
	answer.data = at;
	if (answer.length != length) {
		errno = ECONNRESET;
		return -1;
	}
	if (write_all(STDOUT_FILENO, &answer))
		return 1;
	return (int)code;
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
	struct bytes path, temporary;
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	mkdir(directory, 0700);
	empty(&path);
	empty(&temporary);
	if (append_text(&path, directory) || append_text(&path, "/") ||
	    append_number(&path, (unsigned long long)now.tv_sec, 20) ||
	    append_number(&path, (unsigned long long)now.tv_nsec, 9) || append_text(&path, "-") ||
	    append_number(&path, (unsigned long long)getpid(), 1) || append_text(&path, ".request") ||
	    append(&temporary, path.data, path.length) || append(&temporary, ".new", 5) ||
	    append(&path, "", 1))
		return fail(IO_FAILURE, "spool DEL in", directory);
	if (written(temporary.data, request) || rename(temporary.data, path.data) ||
	    sync_directory(directory)) {
		int why = errno;

		unlink(temporary.data);
		errno = why;
		return fail(IO_FAILURE, "spool DEL in", directory);
	}
	return 0;
}

int main(void)
{
	const char *path = variable("META_CNI_SOCKET", SOCKET);
	struct bytes request;
	int daemon, code = -1;

	signal(SIGPIPE, SIG_IGN); /* a daemon that goes away is an error of write() */
	if (is("VERSION")) {
		empty(&request);
		return append_text(&request, VERSIONS) || write_all(STDOUT_FILENO, &request);
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
		    errno == EAGAIN && daemon >= 0
			    ? "the meta-cni daemon does not answer, try again later:"
			    : "the meta-cni daemon is not there, try again later:",
		    path);
}
