/* A whole custom runtime in C: it asks the Lambda Runtime API for one event after the other and answers each.
 * Nothing but the C library. A real function would put its work where answer() is.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* A connection to $AWS_LAMBDA_RUNTIME_API, which is HOST:PORT. */
static FILE *connect_api(void) {
    char host[64];
    int port;
    const char *api = getenv("AWS_LAMBDA_RUNTIME_API");
    if (!api || sscanf(api, "%63[^:]:%d", host, &port) != 2) {
        fputs("AWS_LAMBDA_RUNTIME_API says nothing useful\n", stderr);
        exit(1);
    }
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, host, &to.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) != 0) fail("connect");
    FILE *stream = fdopen(fd, "r+");
    if (!stream) fail("fdopen");
    return stream;
}

/* Reads one response; returns its body (to be freed) and the id of its event. */
static char *read_response(FILE *api, char *id, size_t id_size, size_t *length) {
    char line[4096];
    *length = 0;
    id[0] = 0;
    if (!fgets(line, sizeof line, api)) fail("the Runtime API is gone");
    while (fgets(line, sizeof line, api) && strcmp(line, "\r\n") != 0) {
        char *value = strchr(line, ':');
        if (!value) continue;
        *value++ = 0;
        value += strspn(value, " ");
        value[strcspn(value, "\r\n")] = 0;
        if (strcasecmp(line, "Content-Length") == 0) *length = strtoul(value, NULL, 10);
        if (strcasecmp(line, "Lambda-Runtime-Aws-Request-Id") == 0) snprintf(id, id_size, "%s", value);
    }
    char *body = malloc(*length + 1);
    if (!body || fread(body, 1, *length, api) != *length) fail("reading an event");
    body[*length] = 0;
    return body;
}

static void answer(FILE *api, const char *id, const char *event, size_t length) {
    const char *before = "{\"language\":\"C\",\"event\":", *after = "}";
    fprintf(api, "POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\r\nHost: api\r\nContent-Length: %zu\r\n\r\n",
            id, strlen(before) + length + strlen(after));
    fputs(before, api);
    fwrite(event, 1, length, api);
    fputs(after, api);
    fflush(api);
}

int main(void) {
    char id[128], none[128];
    size_t length;
    FILE *api = connect_api();
    for (;;) {
        fputs("GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: api\r\n\r\n", api);
        fflush(api);
        char *event = read_response(api, id, sizeof id, &length);
        printf("%s: %zu bytes\n", id, length);
        fflush(stdout);
        answer(api, id, event, length);
        free(event);
        free(read_response(api, none, sizeof none, &length));
    }
}
