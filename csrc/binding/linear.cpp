// hf_integration's module: products with prepacked weights.
#include "arguments.hpp"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

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

std::vector<std::string> linear_levels() {
    std::vector<std::string> names;
    for (const mp_linear_kernel *kernel : kernels())
        names.emplace_back(kernel->level);
    return names;
}

const mp_linear_kernel *kernel_at(const std::string &level) {
    std::string known;
    for (const mp_linear_kernel *kernel : kernels()) {
        if (level == kernel->level)
            return kernel;
        known += (known.empty() ? "" : ", ") + std::string(kernel->level);
    }
    throw nb::value_error(("`level` must be one of " + known + ", got \"" + level + "\": see linear_levels()").c_str());
}

const mp_linear_kernel *kernel_of(const Array &panels) {
    const mp_linear_kernel *kernel = mp_linear_find(panels.shape(2));
    if (!kernel)
        throw nb::value_error("`panels` must be of a level of this machine: pass what pack_weight() returned here");
    return kernel;
}

void require_outputs(const Array &panels, size_t n_out, const char *name) {
    const size_t columns = panels.shape(2);
    if ((n_out + columns - 1) / columns != panels.shape(0))
        throw nb::value_error((std::string("`") + name + "` must be as large as what `panels` were made of, got " +
                               std::to_string(n_out) + ": pass the number of rows of the weight")
                                  .c_str());
}

nb::object pack_weight(nb::handle weight_object, const std::string &level) {
    const Array weight(weight_object, "weight", "float32", 2);
    const mp_linear_kernel *kernel = level == "auto" ? kernels().back() : kernel_at(level);
    const size_t n_out = weight.shape(0), n_in = weight.shape(1), columns = kernel->columns;
    nb::object result = empty_array(nb::make_tuple((n_out + columns - 1) / columns, n_in, columns), "float32");
    Array panels(result, "result", "float32", 3);
    nb::gil_scoped_release release;
    mp_linear_pack(weight.as<float>(), n_out, n_in, columns, panels.as_writable<float>());
    return result;
}

nb::object unpack_weight(nb::handle panels_object, size_t n_out) {
    const Array panels(panels_object, "panels", "float32", 3);
    kernel_of(panels);
    require_outputs(panels, n_out, "n_out");
    nb::object result = empty_array(nb::make_tuple(n_out, panels.shape(1)), "float32");
    Array weight(result, "result", "float32", 2);
    nb::gil_scoped_release release;
    mp_linear_unpack(panels.as<float>(), n_out, panels.shape(1), panels.shape(2), weight.as_writable<float>());
    return result;
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
    const auto threads = static_cast<size_t>(at_least_one(num_threads, "num_threads", "threads"));
    nb::gil_scoped_release release;
    mp_linear_multiply(kernel, states.as<float>(), n_rows, panels.shape(1), panels.as<float>(), n_out,
                       bias_object.is_none() ? nullptr : bias.as<float>(), out.as_writable<float>(), threads);
}

} // namespace
} // namespace mp

NB_MODULE(_linear, module) {
    module.attr("__doc__") = "Compiled products of float32 states with prepacked weights.";
    module.def("linear_levels", &mp::linear_levels, "Return every level that this machine runs, slowest first.");
    module.def("pack_weight", &mp::pack_weight, nb::arg("weight"), nb::arg("level") = "auto",
               "Return the panels of a weight (n_out, n_in).");
    module.def("unpack_weight", &mp::unpack_weight, nb::arg("panels"), nb::arg("n_out"),
               "Return the weight that panels were made of.");
    module.def("multiply", &mp::multiply, nb::arg("states"), nb::arg("panels"), nb::arg("bias").none(), nb::arg("out"),
               nb::arg("num_threads"), "Write states @ weight.T + bias into out.");
}
