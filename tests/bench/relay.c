/* The floor: the least that a proxy in user space can do. One upstream connection per client connection, bytes
 * relayed unread, one epoll. What another proxy costs beyond this is what it does. Usage: relay PORT UPSTREAM-PORT... */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FILES_MAX = 65536, EVENTS_MAX = 256 };

static int peer[FILES_MAX];
static char buffer[65536];

static int watch(int epoll, int file) {
    int one = 1;
    struct epoll_event event = {.events = EPOLLIN, .data = {.fd = file}};
    setsockopt(file, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return epoll_ctl(epoll, EPOLL_CTL_ADD, file, &event);
}

static void join(int epoll, int client, int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int upstream = socket(AF_INET, SOCK_STREAM, 0);
    if (upstream < 0 || upstream >= FILES_MAX || client >= FILES_MAX || connect(upstream, (void *)&to, sizeof to)) {
        close(upstream);
        close(client);
        return;
    }
    fcntl(upstream, F_SETFL, O_NONBLOCK);
    peer[client] = upstream;
    peer[upstream] = client;
    watch(epoll, client);
    watch(epoll, upstream);
}

static void relay(int from) {
    int to = peer[from];
    ssize_t count = read(from, buffer, sizeof buffer);
    if (count > 0) {
        /* Answers of a kilobyte always fit the socket's buffer. */
        if (write(to, buffer, count) == count) return;
    }
    if (to) {
        peer[from] = peer[to] = 0;
        close(to);
        close(from);
    }
}

int main(int count, char **arguments) {
    if (count < 3) return 2;
    int one = 1, next = 0, upstreams = count - 2;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1])), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&at, sizeof at) || listen(listener, 4096)) return 1;
    int epoll = epoll_create1(0);
    watch(epoll, listener);
    struct epoll_event events[EVENTS_MAX];
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS_MAX, -1);
        for (int i = 0; i < ready; i++) {
            int file = events[i].data.fd, client;
            if (file != listener) {
                relay(file);
                continue;
            }
            while ((client = accept4(listener, 0, 0, SOCK_NONBLOCK)) >= 0)
                join(epoll, client, atoi(arguments[2 + next++ % upstreams]));
        }
    }
}
