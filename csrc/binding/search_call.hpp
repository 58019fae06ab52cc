// What every searcher's search has in common.
#pragma once

#include "filter.hpp"

extern "C" {
#include "mp/scratch.h"
}

namespace mp {

class Scratches {
  public:
    Scratches() {
        mp_scratch_pool_init(&pool);
    }
    ~Scratches() {
        mp_scratch_pool_destroy(&pool);
    }
    Scratches(const Scratches &) = delete;
    mp_scratch_pool pool;
};

// Checks what every search takes, makes the results and calls `body(queries, n, k, distances, ids)` without the GIL.
// `by` is the filter that the body uses.
template <class Body>
nb::tuple search_with(nb::handle queries_object, int64_t k, size_t dim, const Filter &by, const Body &body) {
    const Array queries = finite_array(queries_object, "queries", 2);
    at_least_one(k, "k", "the number of neighbours that you want");
    if (queries.shape(1) != dim)
        throw nb::value_error(("`queries` must have " + std::to_string(dim) + " columns as the codes do, got " +
                               std::to_string(queries.shape(1)) + ": search with vectors of the indexed dimension")
                                  .c_str());
    const size_t n = queries.shape(0);
    nb::object shape = nb::make_tuple(n, k);
    nb::object distances = empty_array(shape, "float32"), ids = empty_array(shape, "int64");
    Array distances_out(distances, "distances", "float32", 2), ids_out(ids, "ids", "int64", 2);
    mp_status status;
    {
        nb::gil_scoped_release release;
        status = body(queries.as<float>(), n, static_cast<size_t>(k), distances_out.as_writable<float>(),
                      ids_out.as_writable<int64_t>());
    }
    by.raise_if_given_up();
    raise_if_failed(status);
    return nb::make_tuple(distances, ids);
}

} // namespace mp
