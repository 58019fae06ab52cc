#include "mp/status.h"

#include <stdarg.h>
#include <stdio.h>

struct mp_status mp_invalid(const char *format, ...) {
    struct mp_status status = {MP_INVALID, {0}};
    va_list args;
    va_start(args, format);
    vsnprintf(status.message, sizeof status.message, format, args);
    va_end(args);
    return status;
}
