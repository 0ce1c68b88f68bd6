/* What the C library's resolver makes of a name: each address and, after it, the canonical name.
   Built with glibc and with musl, which differ in what they ask and in what they take for an answer. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

int main(int argc, char **argv) {
    struct addrinfo hints, *found, *each;
    char text[INET6_ADDRSTRLEN];
    int error;

    if (argc < 2) return 2;
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_CANONNAME;
    hints.ai_family = argc > 2 && !strcmp(argv[2], "4") ? AF_INET : AF_UNSPEC;
    error = getaddrinfo(argv[1], "80", &hints, &found);
    if (error) {
        printf("error %s\n", gai_strerror(error));
        return 1;
    }
    for (each = found; each; each = each->ai_next) {
        const void *address = each->ai_family == AF_INET
            ? (const void *)&((struct sockaddr_in *)each->ai_addr)->sin_addr
            : (const void *)&((struct sockaddr_in6 *)each->ai_addr)->sin6_addr;
        printf("address %s\n", inet_ntop(each->ai_family, address, text, sizeof text));
    }
    printf("canonical %s\n", found->ai_canonname ? found->ai_canonname : "");
    return 0;
}
