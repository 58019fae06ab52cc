#include "filter.hpp"

#include <algorithm>
#include <limits>
#include <new>

namespace mp {
namespace {

[[noreturn]] void refuse(const std::string &text) {
    throw nb::value_error(("`id_filter` " + text).c_str());
}

void check_length(size_t length, size_t expected, Ids kind, const char *meaning) {
    const bool may_end_before = kind == Ids::growing;
    if (kind != Ids::any && (may_end_before ? length > expected : length != expected))
        refuse(std::string("must have length ") + (may_end_before ? "at most " : "") + std::to_string(expected) + ", " +
               meaning + ", got " + std::to_string(length) + ": make it for the ids of this index");
}

// An attribute of a range; what 64 bits can't hold is as good as their ends.
int64_t end_of(nb::handle range, const char *name) {
    const nb::object value = range.attr(name);
    int overflow;
    const long long converted = PyLong_AsLongLongAndOverflow(value.ptr(), &overflow);
    if (overflow)
        return overflow < 0 ? std::numeric_limits<int64_t>::min() : std::numeric_limits<int64_t>::max();
    return converted;
}

} // namespace

Filter::Filter(nb::handle object, Ids kind, size_t n) : is_none_(object.is_none()) {
    const std::string type = is_none_ ? "" : element_type(object);
    if (is_none_) {
        return;
    } else if (type == "bool") {
        array_ = Array(object, "id_filter", "bool", 1);
        check_length(array_.shape(0), n, kind, "the number of ids");
        filter_.bytes = array_.as<uint8_t>();
        filter_.last = static_cast<int64_t>(array_.shape(0)) - 1;
    } else if (type == "uint8") {
        array_ = Array(object, "id_filter", "uint8", 1);
        check_length(array_.shape(0), (n + 7) / 8, kind, "an eighth of the number of ids");
        const size_t length = 8 * array_.shape(0);
        filter_.bits = array_.as<uint8_t>();
        filter_.last = static_cast<int64_t>(kind == Ids::any ? length : std::min(n, length)) - 1;
    } else if (type == "int64") {
        take_ids(object, kind, n);
    } else if (PyRange_Check(object.ptr())) {
        take_range(object, kind, n);
    } else if (PyCallable_Check(object.ptr())) {
        take_callable(object, kind, n);
    } else {
        throw nb::type_error(
            ("`id_filter` must be None, a bool, uint8 or int64 array, a range or a callable, got " +
             (type.empty() ? std::string(nb::str(object.type().attr("__name__")).c_str()) : "an array of " + type) +
             ": pass numpy.isin(ids, wanted), for one")
                .c_str());
    }
}

Filter::~Filter() {
    mp_id_set_close(&set_);
}

void Filter::take_ids(nb::handle object, Ids kind, size_t n) {
    const Array array(object, "id_filter", "int64", 1);
    const int64_t *ids = array.as<int64_t>();
    const size_t count = array.shape(0);
    for (size_t i = 0; kind != Ids::any && i < count; i++) {
        if (ids[i] < 0 || static_cast<size_t>(ids[i]) >= n)
            refuse("must hold ids from 0 to " + std::to_string(static_cast<int64_t>(n) - 1) + ", got " +
                   std::to_string(ids[i]) + " at position " + std::to_string(i) + ": pass ids of this index");
    }
    filter_.last = -1;
    if (count == 0)
        return;
    const auto [least, most] = std::minmax_element(ids, ids + count);
    filter_.first = kind == Ids::any ? *least : 0;
    filter_.last = *most;
    const uint64_t span = static_cast<uint64_t>(filter_.last) - static_cast<uint64_t>(filter_.first);
    if (kind == Ids::any && span / 64 > count) { /* bits would take more memory than a set of these ids */
        if (!mp_id_set_open(&set_, ids, count))
            throw std::bad_alloc();
        filter_.set = &set_;
        return;
    }
    bits_.assign(static_cast<size_t>(span / 8) + 1, 0);
    for (size_t i = 0; i < count; i++) {
        const uint64_t at = static_cast<uint64_t>(ids[i]) - static_cast<uint64_t>(filter_.first);
        bits_[at / 8] |= static_cast<uint8_t>(1u << at % 8);
    }
    filter_.bits = bits_.data();
}

void Filter::take_range(nb::handle range, Ids kind, size_t n) {
    const int64_t step = end_of(range, "step"), start = end_of(range, "start"), stop = end_of(range, "stop");
    if (step != 1)
        refuse("must be a range of step 1, got step " + std::to_string(step) + ": pass the ids as an int64 array");
    if (kind != Ids::any && (start < 0 || stop < 0))
        refuse("must be a range of ids, got " +
               (start < 0 ? "start " + std::to_string(start) : "stop " + std::to_string(stop)) + ": ids begin with 0");
    filter_.first = start;
    filter_.last = start < stop ? stop - 1 : -1;
    if (start >= stop)
        filter_.first = 0;
    if (kind != Ids::any)
        filter_.last = std::min(filter_.last, static_cast<int64_t>(n) - 1);
}

void Filter::take_callable(nb::handle callable, Ids kind, size_t n) {
    callable_ = nb::borrow(callable);
    filter_.first = std::numeric_limits<int64_t>::min();
    filter_.last = std::numeric_limits<int64_t>::max();
    filter_.accepts = &Filter::ask;
    filter_.context = this;
    if (kind == Ids::any)
        return;
    answers_.reset(static_cast<uint8_t *>(std::calloc(n + 1, 1))); // pages that nobody asks about are never touched
    n_answers_ = n;
    if (!answers_)
        throw std::bad_alloc();
}

int Filter::ask(void *context, int64_t id) noexcept {
    Filter *self = static_cast<Filter *>(context);
    const bool is_kept = id >= 0 && static_cast<uint64_t>(id) < self->n_answers_;
    uint8_t known = is_kept ? __atomic_load_n(self->answers_.get() + id, __ATOMIC_RELAXED) : 0;
    if (known)
        return known - 1;
    nb::gil_scoped_acquire gil;
    try {
        if (self->error_)
            return -1; // of another thread
        const nb::object answer = self->callable_(id);
        const int truth = PyObject_IsTrue(answer.ptr());
        if (truth < 0)
            throw nb::python_error();
        if (is_kept)
            __atomic_store_n(self->answers_.get() + id, static_cast<uint8_t>(truth + 1), __ATOMIC_RELAXED);
        return truth;
    } catch (...) {
        self->error_ = std::current_exception();
        return -1;
    }
}

void Filter::raise_if_given_up() const {
    if (error_)
        std::rethrow_exception(error_);
}

} // namespace mp
