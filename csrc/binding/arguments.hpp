// What Python passes, checked: the core below takes pointers and believes them.
#pragma once

#include <nanobind/nanobind.h>

#include <string>

extern "C" {
#include "mp/feedback.h"
#include "mp/items.h"
#include "mp/status.h"
}

namespace nb = nanobind;

namespace mp {

// A C-contiguous array, held through the buffer protocol: the memory can't go away or move while this lives.
class Array {
  public:
    Array() = default;
    // `type` is numpy's name of the element type: uint8, int8, uint16, uint32, int32, uint64, int64, float32 or bool.
    Array(nb::handle object, const char *name, const char *type, int ndim);
    Array(Array &&other) noexcept;
    Array &operator=(Array &&other) noexcept;
    ~Array();

    template <class T> const T *as() const {
        return static_cast<const T *>(view_.buf);
    }
    template <class T> T *as_writable() {
        return static_cast<T *>(view_.buf);
    }
    size_t shape(int axis) const {
        return static_cast<size_t>(view_.shape[axis]);
    }

  private:
    Py_buffer view_ = {};
};

// numpy's name of the element type of an array, "" for what is no array.
std::string element_type(nb::handle object);

// A float32 array whose values are all finite.
Array finite_array(nb::handle object, const char *name, int ndim);

// Scale and offset of d dimensions.
struct Quantization {
    Array scale, offset;
    Quantization(nb::handle scale, nb::handle offset, size_t dim);
};

// How rounding makes up for what it loses (feedback.h), if it does.
class Feedback {
  public:
    Feedback() = default;
    Feedback(nb::handle object, size_t dim); // None: it does not
    const uint16_t *data() const {
        return is_there_ ? values_.as<uint16_t>() : nullptr;
    }

  private:
    Array values_;
    bool is_there_ = false;
};

// The arguments that every searcher has. `items` points into the arrays that this holds.
struct Items {
    Array codes, norms;
    Quantization quantization;
    mp_items items;
    Items(nb::handle codes, nb::handle norms, nb::handle scale, nb::handle offset, const char *metric, int bits,
          const char *level);
};

// "l2", "ip" and, where `with_cosine`, "cosine".
mp_metric metric_of(const char *name, bool with_cosine);

// The second level of some items, kept alive.
struct Residuals {
    Array codes, norms;
    // Checks that the arrays fit `items` and makes `items` read them.
    void attach(mp_items &items, nb::handle codes, nb::handle norms, float range);
};

// The vectors that some items were encoded from, kept alive.
struct Originals {
    Array vectors;
    // Checks that they fit `items` and makes `items` read them.
    void attach(mp_items &items, nb::handle vectors);
};

// Kernels by name; "auto" is the best that the machine has or what MP_SIMD_LEVEL says.
const mp_kernels *find_kernels(const char *level);

size_t checked_dim(size_t dim);
// Refuses anything but 8 and 4.
size_t checked_bits(int bits);
// Refuses what is not a finite number above 0.
float checked_range(float range);
// The dimension of codes (n, columns): the columns themselves, or for packed codes the length of `scale`, which they
// must fit.
size_t dim_of(const Array &codes, nb::handle scale, size_t bits);
void require_length(const Array &array, const char *name, size_t expected, const char *meaning);
void require_columns(const Array &array, const char *name, size_t dim);
// Returns what lies between `least` and `most`.
int64_t in_range(int64_t value, int64_t least, int64_t most, const char *name, const char *meaning);
int64_t at_least_one(int64_t value, const char *name, const char *meaning);

// Raises what the core reports.
void raise_if_failed(const mp_status &status);

nb::object empty_array(nb::object shape, const char *type);

} // namespace mp
