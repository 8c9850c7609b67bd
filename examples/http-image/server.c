/* An HTTP server of one file: answers every request with what it was asked, on $PORT. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

static char request[65536];

/* Reads a request's head and body; the length of what was read, 0 when the connection ended. */
static size_t receive(int fd) {
    size_t have = 0, wanted = 0;
    for (;;) {
        ssize_t got = read(fd, request + have, sizeof request - 1 - have);
        if (got <= 0) return 0;
        request[have += (size_t)got] = 0;
        char *end = strstr(request, "\r\n\r\n");
        if (end && !wanted) {
            wanted = (size_t)(end + 4 - request);
            for (char *line = request; line < end; line = strstr(line, "\r\n") + 2)
                if (!strncasecmp(line, "content-length:", 15)) wanted += strtoul(line + 15, NULL, 10);
        }
        if (wanted && have >= wanted) return have;
        if (have == sizeof request - 1) return 0;
    }
}

int main(void) {
    const char *port = getenv("PORT");
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(port ? port : "8080"))};
    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 16)) {
        perror("listen");
        return 1;
    }
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        while (fd >= 0 && receive(fd)) {
            char method[16] = "", path[1024] = "", body[2048], answer[4096];
            sscanf(request, "%15s %1023[^ \"\\]", method, path);
            const char *content = strstr(request, "\r\n\r\n") + 4;
            snprintf(body, sizeof body, "{\"language\": \"C\", \"method\": \"%s\", \"path\": \"%s\", \"bytes\": %zu}\n",
                     method, path, strlen(content));
            int size = snprintf(answer, sizeof answer,
                                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                                strlen(body), body);
            printf("%s %s\n", method, path);
            fflush(stdout);
            if (write(fd, answer, (size_t)size) != size) break;
        }
        close(fd);
    }
}
