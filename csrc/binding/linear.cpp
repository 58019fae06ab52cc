// hf_integration's module: products with prepacked weights.
#include "arguments.hpp"

#include <string>
#include <vector>

extern "C" {
#include "mp/linear.h"
}

namespace mp {
namespace {

std::vector<const mp_linear_kernel *> kernels() {
    const mp_linear_kernel *levels[MP_LINEAR_MAX_LEVELS];
    return {levels, levels + mp_linear_available(levels)};
}

nb::dict linear_levels() {
    nb::dict columns;
    for (const mp_linear_kernel *kernel : kernels())
        columns[kernel->level] = kernel->columns;
    return columns;
}

const mp_linear_kernel *kernel_of(const Array &panels) {
    const mp_linear_kernel *kernel = mp_linear_find(panels.shape(2));
    if (!kernel)
        throw nb::value_error(("`panels` must have as many columns as a level of this machine, got " +
                               std::to_string(panels.shape(2)) + ": see linear_levels()")
                                  .c_str());
    return kernel;
}

void require_outputs(const Array &panels, size_t n_out, const char *name) {
    const size_t columns = panels.shape(2);
    if ((n_out + columns - 1) / columns != panels.shape(0))
        throw nb::value_error((std::string("`") + name + "` must have as many outputs as `panels`, up to " +
                               std::to_string(panels.shape(0) * columns) + ", got " + std::to_string(n_out) +
                               ": pass the weight's number of rows")
                                  .c_str());
}

// Both directions: the weight and the panels of it, one of which is written.
template <class Copy> void convert(nb::handle weight_object, nb::handle panels_object, Copy copy) {
    Array weight(weight_object, "weight", "float32", 2), panels(panels_object, "panels", "float32", 3);
    kernel_of(panels);
    require_outputs(panels, weight.shape(0), "weight");
    require_columns(weight, "weight", panels.shape(1));
    nb::gil_scoped_release release;
    copy(weight, panels);
}

void pack_weight(nb::handle weight_object, nb::handle panels_object) {
    convert(weight_object, panels_object, [](const Array &weight, Array &panels) {
        mp_linear_pack(weight.as<float>(), weight.shape(0), weight.shape(1), panels.shape(2),
                       panels.as_writable<float>());
    });
}

void unpack_weight(nb::handle panels_object, nb::handle weight_object) {
    convert(weight_object, panels_object, [](Array &weight, const Array &panels) {
        mp_linear_unpack(panels.as<float>(), weight.shape(0), weight.shape(1), panels.shape(2),
                         weight.as_writable<float>());
    });
}

void multiply(nb::handle states_object, nb::handle panels_object, nb::handle bias_object, nb::handle out_object,
              int num_threads) {
    const Array states(states_object, "states", "float32", 2), panels(panels_object, "panels", "float32", 3);
    Array out(out_object, "out", "float32", 2), bias;
    const mp_linear_kernel *kernel = kernel_of(panels);
    const size_t n_rows = states.shape(0), n_out = out.shape(1);
    require_columns(states, "states", panels.shape(1));
    require_length(out, "out", n_rows, "the number of rows of `states`");
    require_outputs(panels, n_out, "out");
    if (!bias_object.is_none()) {
        bias = Array(bias_object, "bias", "float32", 1);
        require_length(bias, "bias", n_out, "the number of outputs");
    }
    at_least_one(num_threads, "num_threads", "threads");
    nb::gil_scoped_release release;
    mp_linear_multiply(kernel, states.as<float>(), n_rows, panels.shape(1), panels.as<float>(), n_out,
                       bias_object.is_none() ? nullptr : bias.as<float>(), out.as_writable<float>(), num_threads);
}

} // namespace
} // namespace mp

NB_MODULE(_linear, module) {
    module.attr("__doc__") = "Compiled products of float32 states with prepacked weights.";
    module.def("linear_levels", &mp::linear_levels,
               "Return every level that this machine runs, slowest first, with the columns of its panels.");
    module.def("pack_weight", &mp::pack_weight, nb::arg("weight"), nb::arg("panels"),
               "Write the panels of a weight (n_out, n_in).");
    module.def("unpack_weight", &mp::unpack_weight, nb::arg("panels"), nb::arg("weight"),
               "Write the weight that panels were made of.");
    module.def("multiply", &mp::multiply, nb::arg("states"), nb::arg("panels"), nb::arg("bias").none(), nb::arg("out"),
               nb::arg("num_threads"), "Write states @ weight.T + bias into out.");
}
