// The module: free functions here, searchers in searchers.cpp. No policy: that is the Python side's.
#include "arguments.hpp"
#include "searchers.hpp"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

extern "C" {
#include "mp/residual.h"
#include "mp/scratch.h"
#include "mp/simd.h"
}

namespace mp {
namespace {

// A query for the kernels: aligned and padded.
class QueryBuffer {
  public:
    explicit QueryBuffer(size_t dim) {
        if (!mp_reserve(&buffer_, mp_query_bytes(dim)))
            throw std::bad_alloc();
        mp_place_query(&query, buffer_.data, 0, dim);
    }
    ~QueryBuffer() {
        std::free(buffer_.data);
    }
    QueryBuffer(const QueryBuffer &) = delete;
    mp_query query = {};

  private:
    mp_buffer buffer_ = {};
};

std::string simd_level() {
    return find_kernels("auto")->level;
}

std::vector<std::string> simd_levels() {
    const mp_kernels *levels[MP_MAX_LEVELS];
    const size_t count = mp_simd_available(levels);
    std::vector<std::string> names;
    for (size_t i = 0; i < count; i++)
        names.emplace_back(levels[i]->level);
    return names;
}

// All products of `codes` with one query: as a run, or by four where there are four. `padded` is in the kernels' order.
nb::object all_dots(const Array &codes, const mp_kernels *kernels, const int8_t *padded, size_t dim, bool run) {
    const size_t n = codes.shape(0), size = codes.shape(1);
    nb::object result = empty_array(nb::int_(n), "int32");
    Array out(result, "result", "int32", 1);
    nb::gil_scoped_release release;
    size_t i = 0;
    if (run) {
        kernels->run(codes.as<uint8_t>(), size, n, padded, dim, out.as_writable<int32_t>());
        i = n;
    }
    for (const uint8_t *code = codes.as<uint8_t>(); i + 4 <= n; i += 4, code += 4 * size) {
        const uint8_t *const four[4] = {code, code + size, code + 2 * size, code + 3 * size};
        kernels->dot4(four, padded, dim, out.as_writable<int32_t>() + i);
    }
    for (; i < n; i++)
        out.as_writable<int32_t>()[i] = kernels->dot(codes.as<uint8_t>() + i * size, padded, dim);
    return result;
}

nb::object dot_u8s8(nb::handle codes_object, nb::handle query_object, const char *level, bool run) {
    const Array codes(codes_object, "codes", "uint8", 2), query(query_object, "query", "int8", 1);
    const size_t dim = checked_dim(codes.shape(1));
    require_length(query, "query", dim, "the dimension of the codes");
    const QueryBuffer padded(dim);
    std::memset(padded.query.high, 0, mp_query_bytes(dim));
    std::memcpy(padded.query.high, query.as<int8_t>(), dim);
    return all_dots(codes, find_kernels(level), padded.query.high, dim, run);
}

nb::object dot_u4s8(nb::handle codes_object, nb::handle query_object, const char *level, bool run) {
    const Array codes(codes_object, "codes", "uint8", 2), query(query_object, "query", "int8", 1);
    const size_t dim = checked_dim(query.shape(0));
    if (codes.shape(1) != (dim + 1) / 2)
        throw nb::value_error("`codes` must have a column for two dimensions of `query`: pass packed 4-bit codes");
    const QueryBuffer padded(dim);
    mp_split_planes(query.as<int8_t>(), dim, padded.query.high);
    return all_dots(codes, find_kernels(level)->u4, padded.query.high, dim, run);
}

nb::object encode(nb::handle vectors_object, nb::handle scale, nb::handle offset, int bits, nb::handle feedback,
                  const char *level) {
    const Array vectors = finite_array(vectors_object, "vectors", 2);
    const size_t n = vectors.shape(0), dim = checked_dim(vectors.shape(1));
    const Quantization by(scale, offset, dim);
    const Feedback factors(feedback, dim);
    const bool packed = checked_bits(bits) == 4;
    const mp_feedback fed = {factors.data(),   by.scale.as<float>(), by.offset.as<float>(), dim,
                             packed ? 4u : 8u, find_kernels(level)};
    nb::object result = empty_array(nb::make_tuple(n, packed ? (dim + 1) / 2 : dim), "uint8");
    Array codes(result, "result", "uint8", 2);
    std::vector<float> rests(fed.factors ? MP_FED_ROWS * dim : 0);
    nb::gil_scoped_release release;
    if (fed.factors)
        mp_encode_with_feedback(&fed, vectors.as<float>(), n, rests.data(), codes.as_writable<uint8_t>());
    else
        (packed ? mp_encode4 : mp_encode)(vectors.as<float>(), n, dim, fed.scale, fed.offset,
                                          codes.as_writable<uint8_t>());
    return result;
}

nb::object decode(nb::handle codes_object, nb::handle scale, nb::handle offset, int bits) {
    const Array codes(codes_object, "codes", "uint8", 2);
    const bool packed = checked_bits(bits) == 4;
    const size_t n = codes.shape(0), dim = dim_of(codes, scale, checked_bits(bits));
    const Quantization by(scale, offset, dim);
    nb::object result = empty_array(nb::make_tuple(n, dim), "float32");
    Array vectors(result, "result", "float32", 2);
    nb::gil_scoped_release release;
    (packed ? mp_decode4 : mp_decode)(codes.as<uint8_t>(), n, dim, by.scale.as<float>(), by.offset.as<float>(),
                                      vectors.as_writable<float>());
    return result;
}

nb::object squared_norms(nb::handle codes_object, nb::handle scale, nb::handle offset, int bits) {
    const Array codes(codes_object, "codes", "uint8", 2);
    const bool packed = checked_bits(bits) == 4;
    const size_t n = codes.shape(0), dim = dim_of(codes, scale, checked_bits(bits));
    const Quantization by(scale, offset, dim);
    nb::object result = empty_array(nb::int_(n), "float32");
    Array norms(result, "result", "float32", 1);
    nb::gil_scoped_release release;
    (packed ? mp_squared_norms4 : mp_squared_norms)(codes.as<uint8_t>(), n, dim, by.scale.as<float>(),
                                                    by.offset.as<float>(), norms.as_writable<float>());
    return result;
}

// Codes with the quantizer that decodes them, for the functions of the second level.
struct Level {
    Array codes;
    Quantization by;
    mp_level level;
    Level(nb::handle codes_object, nb::handle scale, nb::handle offset, int bits)
        : codes(codes_object, "codes", "uint8", 2), by(scale, offset, dim_of(codes, scale, checked_bits(bits))),
          level{codes.as<uint8_t>(), by.scale.as<float>(), by.offset.as<float>(),
                codes.shape(0),      by.scale.shape(0),    static_cast<size_t>(bits)} {
    }
    void require_shape(const Array &array, const char *name) const {
        require_length(array, name, level.n, "the number of codes");
        if (array.shape(1) != level.dim)
            throw nb::value_error(("`" + std::string(name) + "` must have a column for each of " +
                                   std::to_string(level.dim) + " dimensions, got " + std::to_string(array.shape(1)))
                                      .c_str());
    }
};

nb::object encode_residuals(nb::handle vectors_object, nb::handle codes, nb::handle scale, nb::handle offset,
                            float range, int bits) {
    const Array vectors = finite_array(vectors_object, "vectors", 2);
    const Level first(codes, scale, offset, bits);
    first.require_shape(vectors, "vectors");
    checked_range(range);
    nb::object result = empty_array(nb::make_tuple(first.level.n, first.level.dim), "uint8");
    Array out(result, "result", "uint8", 2);
    nb::gil_scoped_release release;
    mp_encode_residuals(&first.level, vectors.as<float>(), range, out.as_writable<uint8_t>());
    return result;
}

nb::object residual_norms(nb::handle residuals_object, nb::handle codes, nb::handle scale, nb::handle offset,
                          float range, int bits) {
    const Array residuals(residuals_object, "residuals", "uint8", 2);
    const Level first(codes, scale, offset, bits);
    first.require_shape(residuals, "residuals");
    checked_range(range);
    nb::object result = empty_array(nb::int_(first.level.n), "float32");
    Array out(result, "result", "float32", 1);
    nb::gil_scoped_release release;
    mp_residual_norms(&first.level, residuals.as<uint8_t>(), range, out.as_writable<float>());
    return result;
}

nb::object decode_residuals(nb::handle residuals_object, nb::handle codes, nb::handle scale, nb::handle offset,
                            float range, int bits) {
    const Array residuals(residuals_object, "residuals", "uint8", 2);
    const Level first(codes, scale, offset, bits);
    first.require_shape(residuals, "residuals");
    checked_range(range);
    nb::object result = empty_array(nb::make_tuple(first.level.n, first.level.dim), "float32");
    Array out(result, "result", "float32", 2);
    nb::gil_scoped_release release;
    mp_decode_residuals(&first.level, residuals.as<uint8_t>(), range, out.as_writable<float>());
    return result;
}

nb::tuple fold_query(nb::handle query_object, nb::handle scale, nb::handle offset) {
    const Array vector = finite_array(query_object, "query", 1);
    const size_t dim = checked_dim(vector.shape(0));
    const Quantization by(scale, offset, dim);
    QueryBuffer folded(dim);
    mp_fold_query(vector.as<float>(), dim, by.scale.as<float>(), by.offset.as<float>(), &folded.query);
    nb::object high = empty_array(nb::int_(dim), "int8"), low = empty_array(nb::int_(dim), "int8");
    std::memcpy(Array(high, "high", "int8", 1).as_writable<int8_t>(), folded.query.high, dim);
    std::memcpy(Array(low, "low", "int8", 1).as_writable<int8_t>(), folded.query.low, dim);
    return nb::make_tuple(high, low, folded.query.unit, folded.query.bias);
}

} // namespace
} // namespace mp

NB_MODULE(_core, module) {
    module.attr("__doc__") = "Compiled core: kernels over 8-bit and packed 4-bit codes and the searches built on them.";
    module.def("simd_level", &mp::simd_level, "Return the level in use.");
    module.def("simd_levels", &mp::simd_levels, "Return every level that this machine runs, slowest first.");
    module.def("dot_u8s8", &mp::dot_u8s8, nb::arg("codes"), nb::arg("query"), nb::arg("level") = "auto",
               nb::arg("run") = false, "Return the n integer dot products of codes (n, d) with one query (d,).");
    module.def("dot_u4s8", &mp::dot_u4s8, nb::arg("codes"), nb::arg("query"), nb::arg("level") = "auto",
               nb::arg("run") = false, "Return the n integer dot products of packed 4-bit codes with one query (d,).");
    module.def("encode", &mp::encode, nb::arg("vectors"), nb::arg("scale"), nb::arg("offset"), nb::arg("bits") = 8,
               nb::arg("feedback").none() = nb::none(), nb::arg("level") = "auto",
               "Return codes: round((x - offset) / scale) clamped to 0..255 or 0..15; 0 where scale is 0.");
    module.def("decode", &mp::decode, nb::arg("codes"), nb::arg("scale"), nb::arg("offset"), nb::arg("bits") = 8,
               "Return offset + scale * code, (n, d).");
    module.def("squared_norms", &mp::squared_norms, nb::arg("codes"), nb::arg("scale"), nb::arg("offset"),
               nb::arg("bits") = 8, "Return the n squared norms of the decoded vectors.");
    module.def("encode_residuals", &mp::encode_residuals, nb::arg("vectors"), nb::arg("codes"), nb::arg("scale"),
               nb::arg("offset"), nb::arg("span"), nb::arg("bits") = 8,
               "Return the second level (n, d): what the codes leave over, in 255 parts of `span` steps.");
    module.def("residual_norms", &mp::residual_norms, nb::arg("residuals"), nb::arg("codes"), nb::arg("scale"),
               nb::arg("offset"), nb::arg("span"), nb::arg("bits") = 8,
               "Return the n squared norms of the vectors decoded from both levels.");
    module.def("decode_residuals", &mp::decode_residuals, nb::arg("residuals"), nb::arg("codes"), nb::arg("scale"),
               nb::arg("offset"), nb::arg("span"), nb::arg("bits") = 8,
               "Return the vectors (n, d) decoded from both levels.");
    module.def("fold_query", &mp::fold_query, nb::arg("query"), nb::arg("scale"), nb::arg("offset"),
               "Return (high, low, unit, bias): <query, x> ~ bias + unit * sum((256 * high + low) * code).");
    mp::bind_searchers(module);
    mp::bind_hnsw(module);
    mp::bind_ivf(module);
}
