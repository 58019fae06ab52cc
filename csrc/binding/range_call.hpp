// What every searcher's range search has in common.
#pragma once

#include "filter.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

extern "C" {
#include "mp/range.h"
}

namespace mp {

class RangeHits {
  public:
    explicit RangeHits(size_t n) : hits(n) {
    }
    ~RangeHits() {
        mp_range_close(hits.data(), hits.size());
    }
    RangeHits(const RangeHits &) = delete;

    // (lims, distances, ids) as FAISS has them.
    nb::tuple arrays() const {
        size_t total = 0;
        for (const mp_range_hits &row : hits)
            total += row.count;
        nb::object lims = empty_array(nb::int_(hits.size() + 1), "uint64");
        nb::object distances = empty_array(nb::int_(total), "float32"), ids = empty_array(nb::int_(total), "int64");
        Array lims_out(lims, "lims", "uint64", 1), distances_out(distances, "distances", "float32", 1);
        Array ids_out(ids, "ids", "int64", 1);
        uint64_t at = 0;
        for (size_t q = 0; q < hits.size(); q++) {
            lims_out.as_writable<uint64_t>()[q] = at;
            std::copy_n(hits[q].distances, hits[q].count, distances_out.as_writable<float>() + at);
            std::copy_n(hits[q].ids, hits[q].count, ids_out.as_writable<int64_t>() + at);
            at += hits[q].count;
        }
        lims_out.as_writable<uint64_t>()[hits.size()] = at;
        return nb::make_tuple(lims, distances, ids);
    }

    std::vector<mp_range_hits> hits;
};

// Checks what every range search takes and calls `body(range, hits)` without the GIL. `by` is the filter.
template <class Body>
nb::tuple range_search_with(nb::handle queries_object, float radius, size_t dim, int num_threads, const Filter &by,
                            const Body &body) {
    const Array queries = finite_array(queries_object, "queries", 2);
    require_columns(queries, "queries", dim);
    if (std::isnan(radius))
        throw nb::value_error("`radius` must be a number, got nan: pass a distance, or a similarity for \"ip\"");
    RangeHits found(queries.shape(0));
    const mp_range range = {queries.as<float>(), queries.shape(0), radius, by.get(), num_threads};
    mp_status status;
    {
        nb::gil_scoped_release release;
        status = body(range, found.hits.data());
    }
    by.raise_if_given_up();
    raise_if_failed(status);
    return found.arrays();
}

} // namespace mp
