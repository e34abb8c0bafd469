/* A wrong clock for one process: loaded ahead of the C library, which then tells the time of day this many
 * seconds late or early. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    const char *ahead = getenv("CLOCK_AHEAD_S");
    if (result == 0 && clock == CLOCK_REALTIME && ahead)
        time->tv_sec += atoll(ahead);
    return result;
}
