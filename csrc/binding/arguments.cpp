#include "arguments.hpp"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

extern "C" {
#include "mp/memory.h"
#include "mp/simd.h"
}

namespace mp {

namespace {

// numpy's name of a buffer format, or "" for what no argument here can be.
std::string type_name(const Py_buffer &view) {
    const char *format = view.format ? view.format : "B";
    format += std::strchr("@=<", *format) && *format ? 1 : 0;
    if (std::strlen(format) != 1)
        return "";
    if (*format == '?')
        return "bool";
    const std::string bits = std::to_string(8 * view.itemsize);
    if (std::strchr("BHILQ", *format))
        return "uint" + bits;
    if (std::strchr("bhilq", *format))
        return "int" + bits;
    if (std::strchr("efd", *format))
        return "float" + bits;
    return "";
}

bool is_contiguous(const Py_buffer &view) {
    Py_ssize_t expected = view.itemsize;
    if (view.len == 0)
        return true;
    for (int axis = view.ndim - 1; axis >= 0; axis--) {
        if (view.shape[axis] > 1 && view.strides[axis] != expected)
            return false;
        expected *= view.shape[axis];
    }
    return true;
}

std::string describe(const Py_buffer &view) {
    std::string text = type_name(view).empty() ? "another type" : type_name(view);
    text += " of shape (";
    for (int axis = 0; axis < view.ndim; axis++)
        text += (axis ? ", " : "") + std::to_string(view.shape[axis]);
    return text + (view.ndim == 1 ? ",)" : ")") + (is_contiguous(view) ? "" : ", not contiguous");
}

size_t first_not_finite(const float *values, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (!std::isfinite(values[i]))
            return i;
    }
    return count;
}

// Branch-free, so that the compiler may look at several values at once: an all-ones exponent is inf or NaN.
bool all_finite(const float *values, size_t count) {
    uint32_t found = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        std::memcpy(&bits, values + i, sizeof bits);
        found |= (bits & 0x7F800000u) == 0x7F800000u;
    }
    return !found;
}

[[noreturn]] void fail(const std::string &text) {
    throw nb::value_error(text.c_str());
}

std::string level_names() {
    const mp_kernels *levels[MP_MAX_LEVELS];
    const size_t count = mp_simd_available(levels);
    std::string names;
    for (size_t i = 0; i < count; i++)
        names += (i ? ", " : "") + std::string(levels[i]->level);
    return names;
}

const mp_kernels *named_kernels(const char *level, const char *argument, const char *remedy) {
    const mp_kernels *kernels = mp_simd_find(level);
    if (!kernels)
        fail("`" + std::string(argument) + "` must be one of " + level_names() + " on this machine, got \"" + level +
             "\": " + remedy);
    return kernels;
}

const mp_kernels *default_kernels() {
    const char *wanted = std::getenv("MP_SIMD_LEVEL");
    if (wanted && *wanted)
        return named_kernels(wanted, "MP_SIMD_LEVEL", "unset the environment variable to get the best one");
    const mp_kernels *levels[MP_MAX_LEVELS];
    return levels[mp_simd_available(levels) - 1];
}

} // namespace

Array::Array(nb::handle object, const char *name, const char *type, int ndim) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_STRIDES | PyBUF_FORMAT) != 0) {
        PyErr_Clear();
        throw nb::type_error(("`" + std::string(name) + "` must be a numpy array of type " + type + ", got " +
                              nb::str(object.type().attr("__name__")).c_str() + ": use numpy.asarray")
                                 .c_str());
    }
    if (view_.ndim == ndim && type_name(view_) == type && is_contiguous(view_))
        return;
    const std::string got = describe(view_);
    PyBuffer_Release(&view_);
    fail("`" + std::string(name) + "` must be a C-contiguous " + type + " array of " + std::to_string(ndim) +
         " dimension(s), got " + got + ": use numpy.ascontiguousarray with dtype=numpy." + type);
}

Array::Array(Array &&other) noexcept : view_(std::exchange(other.view_, Py_buffer{})) {
}

Array &Array::operator=(Array &&other) noexcept {
    std::swap(view_, other.view_);
    return *this;
}

Array::~Array() {
    if (view_.obj)
        PyBuffer_Release(&view_);
}

std::string element_type(nb::handle object) {
    Py_buffer view;
    if (PyObject_GetBuffer(object.ptr(), &view, PyBUF_STRIDES | PyBUF_FORMAT) != 0) {
        PyErr_Clear();
        return "";
    }
    const std::string type = type_name(view).empty() ? "another type" : type_name(view);
    PyBuffer_Release(&view);
    return type;
}

Array finite_array(nb::handle object, const char *name, int ndim) {
    Array array(object, name, "float32", ndim);
    const size_t columns = array.shape(ndim - 1);
    const size_t count = ndim == 2 ? array.shape(0) * columns : columns;
    if (!all_finite(array.as<float>(), count)) {
        const size_t at = first_not_finite(array.as<float>(), count);
        fail("`" + std::string(name) + "` must be finite, got " + std::to_string(array.as<float>()[at]) + " at row " +
             std::to_string(at / columns) + ", column " + std::to_string(at % columns) + ": remove or repair that row");
    }
    return array;
}

Quantization::Quantization(nb::handle scale_object, nb::handle offset_object, size_t dim)
    : scale(finite_array(scale_object, "scale", 1)), offset(finite_array(offset_object, "offset", 1)) {
    require_length(scale, "scale", dim, "the dimension of the vectors");
    require_length(offset, "offset", dim, "the dimension of the vectors");
    for (size_t i = 0; i < dim; i++) {
        if (scale.as<float>()[i] < 0)
            fail("`scale` must not be negative, got " + std::to_string(scale.as<float>()[i]) + " at dimension " +
                 std::to_string(i) + ": a step of 0 stands for a constant dimension");
    }
}

Feedback::Feedback(nb::handle object, size_t dim) : is_there_(!object.is_none()) {
    if (!is_there_)
        return;
    values_ = Array(object, "feedback", "uint16", 1);
    const size_t count = mp_feedback_size(dim);
    require_length(values_, "feedback", count, "a value for each pair of dimensions");
    for (size_t i = 0; i < count; i++) {
        if ((data()[i] & 0x7F80) == 0x7F80)
            fail("`feedback` must be finite, got an infinity or NaN at " + std::to_string(i) + ": compute it anew");
    }
}

Items::Items(nb::handle codes_object, nb::handle norms_object, nb::handle scale, nb::handle offset, const char *metric,
             int bits, const char *level)
    : codes(codes_object, "codes", "uint8", 2), quantization(scale, offset, dim_of(codes, scale, checked_bits(bits))),
      items{} {
    items.n = codes.shape(0);
    items.bits = static_cast<size_t>(bits);
    items.dim = quantization.scale.shape(0);
    items.metric = metric_of(metric, true);
    items.byte_kernels = find_kernels(level);
    items.kernels = bits == 4 ? items.byte_kernels->u4 : items.byte_kernels;
    if (items.n > MP_MAX_ITEMS)
        fail("`codes` must have at most 2147483647 rows, got " + std::to_string(items.n) + ": split the index");
    if (items.metric == MP_METRIC_L2) {
        if (norms_object.is_none())
            fail("`norms` must be given for metric \"l2\", got None: pass the result of squared_norms");
        norms = Array(norms_object, "norms", "float32", 1);
        require_length(norms, "norms", items.n, "the number of codes");
        items.norms = norms.as<uint8_t>();
        items.norm_stride = sizeof(float);
    }
    items.codes = codes.as<uint8_t>();
    mp_advise_huge(items.codes, items.n * mp_code_bytes(&items));
    items.code_stride = mp_code_bytes(&items);
    items.scale = quantization.scale.as<float>();
    items.offset = quantization.offset.as<float>();
}

mp_metric metric_of(const char *name, bool with_cosine) {
    if (std::strcmp(name, "l2") == 0)
        return MP_METRIC_L2;
    if (std::strcmp(name, "ip") == 0)
        return MP_METRIC_IP;
    if (with_cosine && std::strcmp(name, "cosine") == 0)
        return MP_METRIC_COSINE;
    fail("`metric` must be \"l2\"" + std::string(with_cosine ? ", \"ip\" or \"cosine\"" : " or \"ip\"") + ", got \"" +
         name +
         (with_cosine ? "\": pass the one of the codes" : "\": for cosine normalise the vectors and use \"ip\""));
}

void Residuals::attach(mp_items &items, nb::handle codes_object, nb::handle norms_object, float range) {
    Array new_codes(codes_object, "residuals", "uint8", 2), new_norms;
    require_length(new_codes, "residuals", items.n, "the number of codes");
    if (new_codes.shape(1) != items.dim)
        fail("`residuals` must have " + std::to_string(items.dim) + " columns, one a dimension, got " +
             std::to_string(new_codes.shape(1)) + ": pass the result of encode_residuals");
    if (items.metric == MP_METRIC_L2) {
        if (norms_object.is_none())
            fail("`norms` must be given for metric \"l2\", got None: pass the result of residual_norms");
        new_norms = Array(norms_object, "norms", "float32", 1);
        require_length(new_norms, "norms", items.n, "the number of codes");
    }
    const float checked = checked_range(range);
    codes = std::move(new_codes);
    norms = std::move(new_norms);
    items.residuals = {codes.as<uint8_t>(), norms.as<float>(), checked};
}

void Originals::attach(mp_items &items, nb::handle vectors_object) {
    // Not looked at: they may be a file's, and come again whenever an index has grown.
    Array fresh(vectors_object, "vectors", "float32", 2);
    require_length(fresh, "vectors", items.n, "the number of codes");
    require_columns(fresh, "vectors", items.dim);
    vectors = std::move(fresh);
    items.originals = vectors.as<float>();
}

const mp_kernels *find_kernels(const char *level) {
    if (std::strcmp(level, "auto") != 0)
        return named_kernels(level, "level", "use \"auto\" to get the best one");
    static const mp_kernels *const chosen = default_kernels(); // once; tried again if it threw
    return chosen;
}

size_t checked_bits(int bits) {
    if (bits != 8 && bits != 4)
        fail("`bits` must be 8 or 4, got " + std::to_string(bits) + ": pass the width that the codes have");
    return static_cast<size_t>(bits);
}

float checked_range(float range) {
    if (!(range > 0) || !std::isfinite(range))
        fail("`span` must be a finite number above 0, got " + std::to_string(range) +
             ": pass the steps that residuals cover, 1 for what rounding leaves");
    return range;
}

size_t dim_of(const Array &codes, nb::handle scale, size_t bits) {
    if (bits == 8)
        return checked_dim(codes.shape(1));
    const size_t dim = checked_dim(Array(scale, "scale", "float32", 1).shape(0));
    if (codes.shape(1) != (dim + 1) / 2)
        fail("`codes` of 4 bits must have " + std::to_string((dim + 1) / 2) + " columns, half of the dimension " +
             std::to_string(dim) + " of `scale`, got " + std::to_string(codes.shape(1)) +
             ": pass the result of encode with bits=4");
    return dim;
}

size_t checked_dim(size_t dim) {
    if (dim < 1 || dim > MP_MAX_DIM)
        fail("the dimension of the vectors must be 1 to " + std::to_string(MP_MAX_DIM) + ", got " +
             std::to_string(dim) + ": sums of longer products may not fit 32 bits");
    return dim;
}

void require_length(const Array &array, const char *name, size_t expected, const char *meaning) {
    if (array.shape(0) != expected)
        fail("`" + std::string(name) + "` must have length " + std::to_string(expected) + ", " + meaning + ", got " +
             std::to_string(array.shape(0)));
}

void require_columns(const Array &array, const char *name, size_t dim) {
    if (array.shape(1) != dim)
        fail("`" + std::string(name) + "` must have " + std::to_string(dim) + " columns as the codes do, got " +
             std::to_string(array.shape(1)) + ": use vectors of the indexed dimension");
}

int64_t in_range(int64_t value, int64_t least, int64_t most, const char *name, const char *meaning) {
    if (value < least || value > most)
        fail("`" + std::string(name) + "` must be " + std::to_string(least) + " to " + std::to_string(most) + ", got " +
             std::to_string(value) + ": pass " + meaning);
    return value;
}

int64_t at_least_one(int64_t value, const char *name, const char *meaning) {
    if (value < 1)
        fail("`" + std::string(name) + "` must be at least 1, got " + std::to_string(value) + ": pass " + meaning);
    return value;
}

void raise_if_failed(const mp_status &status) {
    if (status.code == MP_NO_MEMORY)
        throw std::bad_alloc();
    if (status.code == MP_INVALID)
        fail(status.message);
}

nb::object empty_array(nb::object shape, const char *type) {
    // Looked up once and kept for the life of the process: an import and a getattr cost as much as a small search.
    static const nb::object *const empty = new nb::object(nb::module_::import_("numpy").attr("empty"));
    return (*empty)(std::move(shape), type);
}

} // namespace mp
