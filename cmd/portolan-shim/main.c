/*
 * portolan-shim is what the engine runs as its docker-proxy, one process for each
 * published port. It asks portolan-agent to publish and waits; it carries nothing
 * and understands nothing of what it passes on. Package internal/shim tells the
 * whole story: the engine's contract, the messages, and the agent's side.
 *
 * It is C because there are thousands of them: a waiting one weighs 60 KB, the
 * smallest Go program ten times as much, and none takes 10 ms to start.
 *
 *   state       what comes                    what it does
 *   publishing  the answer                    passes it to the status pipe: waiting,
 *                                             or exits after a refusal
 *   waiting     the agent's connection ends   renewing
 *   renewing    the answer "0"                waiting; everything else: once more
 *   any         SIGINT (engine unpublishes)   asks to unpublish, exits when answered
 *   any         SIGTERM (engine died)         exits; the agent sees the connection end
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* The descriptors that dockerd passes. */
enum { STATUS = 3, PUBLISHED = 4 };

/* Milliseconds. The engine gives up after 16 s; its user is told more by then. */
enum {
	CONNECT_LIMIT = 4000, /* for an agent that is just starting */
	START_LIMIT = 12000,  /* for connecting and the agent's answer */
	STOP_LIMIT = 5000,    /* the engine holds a lock meanwhile */
	LAST_LIMIT = 1000,    /* for an agent that is to hear the end only */
	FIRST_PAUSE = 20,     /* between attempts, and twice that, up to */
	LAST_PAUSE = 1000,
};
#define FOREVER LLONG_MAX

/* What ended a wait, when it was no signal (those have positive numbers). */
enum { READY = 0, LATE = -1 };

static int signals;             /* a signalfd(2) of SIGINT and SIGTERM */
static int published = -1;      /* the socket that the engine bound; -1 for none */
static struct sockaddr_un agent;
static char **arguments;        /* the engine's, as they came */
static char answer[8 << 10];

static long long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

/* await returns when conn (-1 for none) can be read or has ended, when a signal
 * has come, or at the time until. A negative signal descriptor is not looked at. */
static int await(int conn, int signal_fd, long long until)
{
	struct pollfd fds[] = {{.fd = signal_fd, .events = POLLIN}, {.fd = conn, .events = POLLIN}};
	for (;;) {
		long long left = until == FOREVER ? -1 : until - now();
		if (until != FOREVER && left < 0)
			left = 0;
		int n = poll(fds, 2, left);
		struct signalfd_siginfo info;
		if (fds[0].revents && read(signal_fd, &info, sizeof info) == sizeof info)
			return info.ssi_signo;
		if (n > 0 && fds[1].revents)
			return READY;
		if (n == 0)
			return LATE;
	}
}

/* dial connects to the agent and waits for one, until the time given or a signal.
 * It returns READY with *conn set, LATE with errno, or the signal. */
static int dial(int *conn, int signal_fd, long long until)
{
	for (int pause = FIRST_PAUSE;; pause = pause * 2 < LAST_PAUSE ? pause * 2 : LAST_PAUSE) {
		*conn = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
		struct timeval limit = {.tv_sec = 1}; /* of an agent that does not accept */
		setsockopt(*conn, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
		if (*conn >= 0 && connect(*conn, (struct sockaddr *)&agent, sizeof agent) == 0)
			return READY;
		int cause = errno;
		if (*conn >= 0)
			close(*conn);
		*conn = -1;
		long long next = now() + pause;
		int got = await(-1, signal_fd, next < until ? next : until);
		errno = cause;
		if (got != LATE || now() >= until)
			return got;
	}
}

/* tell sends a verb and the engine's arguments, and the published socket unless
 * fd is -1. */
static int tell(int conn, const char *verb, int fd)
{
	char text[1024], control[CMSG_SPACE(sizeof(int))] = {0};
	size_t n = strlen(verb);
	memcpy(text, verb, n);
	for (char **a = arguments; *a; a++) {
		size_t more = strlen(*a);
		if (n + 1 + more > sizeof text)
			return errno = E2BIG, -1;
		text[n++] = 0;
		memcpy(text + n, *a, more);
		n += more;
	}
	struct iovec part = {text, n};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
	if (fd >= 0) {
		message.msg_control = control;
		message.msg_controllen = sizeof control;
		struct cmsghdr *c = CMSG_FIRSTHDR(&message);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof fd);
	}
	return sendmsg(conn, &message, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

/* ask is tell and the answer. It returns READY with the answer's length in *n (0:
 * the agent has gone), LATE, or a signal. */
static int ask(int conn, const char *verb, int fd, int signal_fd, long long until, ssize_t *n)
{
	*n = 0;
	if (tell(conn, verb, fd) < 0)
		return READY;
	int got = await(conn, signal_fd, until);
	if (got == READY) {
		*n = recv(conn, answer, sizeof answer, 0);
		if (*n < 0)
			*n = 0;
	}
	return got;
}

/* unpublish returns once the agent has closed, or can't be reached. One that died
 * may have a successor by now, which is told on a new connection. */
static int unpublish(int conn)
{
	long long until = now() + STOP_LIMIT;
	ssize_t n = 0;
	if (published >= 0)
		close(published);
	if (conn >= 0 && (ask(conn, "unpublish", -1, -1, until, &n) != READY || n > 0))
		return 0;
	if (conn >= 0)
		close(conn);
	if (dial(&conn, -1, now() + LAST_LIMIT) == READY)
		ask(conn, "unpublish", -1, -1, until, &n);
	return 0;
}

/* end is the exit code after a signal. */
static int end(int got, int conn) { return got == SIGINT ? unpublish(conn) : 0; }

/* renew finds the next agent, however long that takes. It returns READY or the
 * signal that came. */
static int renew(int *conn)
{
	for (int pause = FIRST_PAUSE;; pause = pause * 2 < LAST_PAUSE ? pause * 2 : LAST_PAUSE) {
		ssize_t n = 0;
		int got = dial(conn, signals, FOREVER);
		if (got == READY)
			got = ask(*conn, "renew", published, signals, FOREVER, &n);
		if (got != READY || (n > 0 && answer[0] == '0'))
			return got;
		close(*conn);
		*conn = -1;
		if ((got = await(-1, signals, now() + pause)) != LATE)
			return got;
	}
}

static int fail(const char *what, const char *cause)
{
	dprintf(STATUS, "1\n%s %s: %s; `portolan status` on the host tells more", what, agent.sun_path, cause);
	return 1;
}

/* find_agent names the agent's socket: shim.sock beside the name by which this
 * program was started. */
static int find_agent(const char *self)
{
	static const char name[] = "shim.sock";
	const char *slash = self ? strrchr(self, '/') : NULL;
	size_t dir = slash ? slash - self + 1 : 0;
	agent.sun_family = AF_UNIX;
	if (dir + sizeof name > sizeof agent.sun_path)
		return -1;
	memcpy(agent.sun_path, self, dir);
	memcpy(agent.sun_path + dir, name, sizeof name);
	return 0;
}

int main(int argc, char **argv)
{
	long long begin = now();
	sigset_t both;
	sigemptyset(&both);
	sigaddset(&both, SIGINT);
	sigaddset(&both, SIGTERM);
	sigprocmask(SIG_BLOCK, &both, NULL);
	signal(SIGPIPE, SIG_IGN);
	signals = signalfd(-1, &both, SFD_CLOEXEC | SFD_NONBLOCK);
	if (signals < 0 || argc < 1 || find_agent(argv[0]) < 0)
		return fail("start docker-proxy beside", strerror(errno));
	arguments = argv + 1;
	for (char **a = arguments; *a; a++)
		if (!strcmp(*a, "-use-listen-fd"))
			published = PUBLISHED;

	int conn = -1;
	ssize_t n;
	int got = dial(&conn, signals, begin + CONNECT_LIMIT);
	if (got == LATE)
		return fail("reach portolan-agent on", strerror(errno));
	if (got == READY) {
		got = ask(conn, "publish", published, signals, begin + START_LIMIT, &n);
		if (got == LATE || (got == READY && n == 0))
			return fail("wait for portolan-agent on", got == LATE ? "no answer in time" : "it has gone");
	}
	if (got != READY) { /* a signal */
		fail("publish by portolan-agent on", "interrupted");
		end(got, -1); /* what conn has asked for may be done or not */
		return 1;
	}
	if (write(STATUS, answer, n) != n || answer[0] != '0')
		return 1; /* refused, or dockerd has gone */
	close(STATUS);

	for (;;) {
		if ((got = await(conn, signals, FOREVER)) != READY)
			return end(got, conn);
		close(conn); /* the agent says nothing unasked: it has gone */
		conn = -1;
		if ((got = renew(&conn)) != READY)
			return end(got, conn);
	}
}
