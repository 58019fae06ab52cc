#include "filter.hpp"

namespace mp {
namespace {

[[noreturn]] void refuse(const std::string &text) {
    throw nb::value_error(("`id_filter` " + text).c_str());
}

void check_length(size_t length, size_t expected, bool may_grow, const char *meaning) {
    if (may_grow ? length > expected : length != expected)
        refuse(std::string("must have length ") + (may_grow ? "at most " : "") + std::to_string(expected) + ", " +
               meaning + ", got " + std::to_string(length) + ": make it for the ids of this index");
}

// The ends of range(begin, end); a step would make it a list of ids.
size_t end_of(nb::handle range, const char *name, size_t most) {
    const int64_t value = nb::cast<int64_t>(range.attr(name));
    if (value < 0)
        refuse("must be a range of ids, got " + std::string(name) + " " + std::to_string(value) + ": ids begin with 0");
    return std::min(static_cast<size_t>(value), most);
}

} // namespace

Filter::Filter(nb::handle object, size_t n, bool may_grow) : is_none_(object.is_none()) {
    filter_.end = n;
    if (is_none_)
        return;
    const std::string type = element_type(object);
    if (type == "bool") {
        array_ = Array(object, "id_filter", "bool", 1);
        check_length(array_.shape(0), n, may_grow, "the number of ids");
        filter_.bytes = array_.as<uint8_t>();
        filter_.end = array_.shape(0);
    } else if (type == "uint8") {
        array_ = Array(object, "id_filter", "uint8", 1);
        check_length(array_.shape(0), (n + 7) / 8, may_grow, "an eighth of the number of ids");
        filter_.bits = array_.as<uint8_t>();
        filter_.end = std::min(n, 8 * array_.shape(0));
    } else if (type == "int64") {
        take_ids(object, n);
    } else if (PyRange_Check(object.ptr())) {
        if (nb::cast<int64_t>(object.attr("step")) != 1)
            refuse("must be a range of step 1, got step " + std::to_string(nb::cast<int64_t>(object.attr("step"))) +
                   ": pass the ids as an int64 array");
        filter_.begin = end_of(object, "start", n);
        filter_.end = end_of(object, "stop", n);
    } else if (PyCallable_Check(object.ptr())) {
        callable_ = nb::borrow(object);
        filter_.end = SIZE_MAX;
        filter_.accepts = &Filter::ask;
        filter_.context = this;
    } else {
        throw nb::type_error(
            ("`id_filter` must be None, a bool, uint8 or int64 array, a range or a callable, got " +
             (type.empty() ? std::string(nb::str(object.type().attr("__name__")).c_str()) : "an array of " + type) +
             ": pass numpy.isin(ids, wanted), for one")
                .c_str());
    }
}

void Filter::take_ids(nb::handle object, size_t n) {
    const Array ids(object, "id_filter", "int64", 1);
    bits_.assign((n + 7) / 8 + 1, 0);
    for (size_t i = 0; i < ids.shape(0); i++) {
        const int64_t id = ids.as<int64_t>()[i];
        if (id < 0 || static_cast<size_t>(id) >= n)
            refuse("must hold ids from 0 to " + std::to_string(static_cast<int64_t>(n) - 1) + ", got " +
                   std::to_string(id) + " at position " + std::to_string(i) + ": pass ids of this index");
        bits_[static_cast<size_t>(id) / 8] |= static_cast<uint8_t>(1u << id % 8);
    }
    filter_.bits = bits_.data();
}

int Filter::ask(void *context, size_t id) noexcept {
    Filter *self = static_cast<Filter *>(context);
    nb::gil_scoped_acquire gil;
    try {
        if (self->error_)
            return -1; // of another thread
        const nb::object answer = self->callable_(static_cast<int64_t>(id));
        const int truth = PyObject_IsTrue(answer.ptr());
        if (truth < 0)
            throw nb::python_error();
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
