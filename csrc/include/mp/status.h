/* How a function of the core fails: by value, with a sentence that the caller can show. */
#ifndef MP_STATUS_H
#define MP_STATUS_H

#include <stdbool.h>

enum mp_code {
    MP_OK = 0,
    MP_NO_MEMORY, /* an allocation failed; nothing was changed */
    MP_INVALID,   /* an argument breaks its rule; `message` says which */
    MP_GIVEN_UP   /* a function of the caller's said so; it knows why */
};

struct mp_status {
    enum mp_code code;
    char message[200];
};

static inline struct mp_status mp_ok(void) {
    return (struct mp_status){MP_OK, {0}};
}

static inline struct mp_status mp_no_memory(void) {
    return (struct mp_status){MP_NO_MEMORY, {0}};
}

/* How a search ended that threads took part in. */
static inline struct mp_status mp_search_status(bool no_memory, bool given_up) {
    if (given_up)
        return (struct mp_status){MP_GIVEN_UP, {0}};
    return no_memory ? mp_no_memory() : mp_ok();
}

/* printf-like; the text names the argument, its rule, the value received and the remedy. */
#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
struct mp_status mp_invalid(const char *format, ...);

#endif
