// The searcher of inverted lists: arrays of a list each, coarse assignments from outside.
#include "arguments.hpp"
#include "range_call.hpp"
#include "search_call.hpp"
#include "searchers.hpp"

#include <vector>

extern "C" {
#include "mp/ivf.h"
#include "mp/memory.h"
}

namespace mp {
namespace {

class IvfSearcher {
  public:
    IvfSearcher(nb::sequence codes, nb::sequence ids, nb::handle centroids, nb::handle scale, nb::handle offset,
                const char *metric, int bits, const IvfSearcher *before, const char *level)
        : quantization_(scale, offset, dim_of(scale)) {
        mp_items &items = ivf_.items;
        items.dim = dim_of(scale);
        items.scale = quantization_.scale.as<float>();
        items.offset = quantization_.offset.as<float>();
        items.metric = metric_of(metric, false);
        items.bits = checked_bits(bits);
        items.byte_kernels = find_kernels(level);
        items.kernels = bits == 4 ? items.byte_kernels->u4 : items.byte_kernels;
        take_lists(codes, ids);
        if (!centroids.is_none()) {
            centroids_ = finite_array(centroids, "centroids", 2);
            require_length(centroids_, "centroids", codes_.size(), "the number of lists");
            require_columns(centroids_, "centroids", items.dim);
            ivf_.centroids = centroids_.as<float>();
        }
        ivf_.n_lists = codes_.size();
        std::vector<mp_ivf_list> lists;
        for (size_t l = 0; l < codes_.size(); l++)
            lists.push_back({codes_[l].as<uint8_t>(), ids_[l].as<int64_t>(), codes_[l].shape(0)});
        raise_if_failed(mp_ivf_open(&ivf_, lists.data(), before ? &before->ivf_ : nullptr));
    }
    ~IvfSearcher() {
        mp_ivf_close(&ivf_);
    }
    IvfSearcher(const IvfSearcher &) = delete;

    nb::tuple search(nb::handle queries, nb::handle assignment_object, int64_t k, int num_threads,
                     nb::handle id_filter) {
        const Array assignment(assignment_object, "assignment", "int64", 2);
        Filter by(id_filter, Ids::any, 0);
        return search_with(queries, k, ivf_.items.dim, by,
                           [&](const float *rows, size_t n, size_t n_neighbors, float *distances, int64_t *ids) {
                               const mp_status status = check_shape(assignment, n);
                               if (status.code != MP_OK)
                                   return status;
                               return mp_ivf_search(&ivf_, &scratches_.pool, rows, n, assignment.as<int64_t>(),
                                                    assignment.shape(1), n_neighbors, by.get(), num_threads, distances,
                                                    ids);
                           });
    }
    nb::tuple range_search(nb::handle queries, nb::handle assignment_object, float radius, int64_t max_empty,
                           int num_threads, nb::handle id_filter) {
        const Array assignment(assignment_object, "assignment", "int64", 2);
        Filter by(id_filter, Ids::any, 0);
        in_range(max_empty, 0, INT64_MAX, "max_empty", "the lists without a result that end a search, 0 for none");
        return range_search_with(queries, radius, ivf_.items.dim, num_threads, by,
                                 [&](const mp_range &range, mp_range_hits *hits) {
                                     const mp_status status = check_shape(assignment, range.n_queries);
                                     if (status.code != MP_OK)
                                         return status;
                                     const mp_range_visits visits = {assignment.as<int64_t>(), assignment.shape(1),
                                                                     static_cast<size_t>(max_empty)};
                                     return mp_range_lists(&ivf_, &scratches_.pool, &range, &visits, hits);
                                 });
    }
    size_t nbytes() const {
        return mp_ivf_bytes(&ivf_);
    }

  private:
    // The vectors' dimension is that of `scale`: there may be no list with a code in it.
    static size_t dim_of(nb::handle scale) {
        return checked_dim(Array(scale, "scale", "float32", 1).shape(0));
    }
    mp_status check_shape(const Array &assignment, size_t n_queries) const {
        if (assignment.shape(0) != n_queries)
            return mp_invalid("`assignment` must have a row for each of the %zu queries, got %zu: pass what the "
                              "coarse quantizer found",
                              n_queries, assignment.shape(0));
        if (assignment.shape(1) > ivf_.n_lists)
            return mp_invalid("`assignment` must have at most %zu columns, the number of lists, got %zu: search "
                              "the coarse quantizer for fewer",
                              ivf_.n_lists, assignment.shape(1));
        return mp_ok();
    }
    void take_lists(const nb::sequence &codes, const nb::sequence &ids) {
        if (nb::len(codes) != nb::len(ids))
            throw nb::value_error(("`ids` must have as many lists as `codes`, " + std::to_string(nb::len(codes)) +
                                   ", got " + std::to_string(nb::len(ids)))
                                      .c_str());
        for (nb::handle list : codes) {
            codes_.emplace_back(list, "codes", "uint8", 2);
            if (codes_.back().shape(1) != mp_code_bytes(&ivf_.items))
                throw nb::value_error(("`codes` must have " + std::to_string(mp_code_bytes(&ivf_.items)) +
                                       " columns in every list, got " + std::to_string(codes_.back().shape(1)) +
                                       ": pass codes of the dimension of `scale`")
                                          .c_str());
        }
        for (nb::handle list : ids) {
            ids_.emplace_back(list, "ids", "int64", 1);
            require_length(ids_.back(), "ids", codes_[ids_.size() - 1].shape(0), "the number of codes of their list");
        }
        for (const Array &list : codes_)
            mp_advise_huge(list.as<uint8_t>(), list.shape(0) * list.shape(1));
    }

    Quantization quantization_;
    std::vector<Array> codes_, ids_;
    Array centroids_;
    Scratches scratches_;
    mp_ivf ivf_ = {};
};

} // namespace

void bind_ivf(nb::module_ &module) {
    nb::class_<IvfSearcher>(module, "IvfSearcher", "Search in inverted lists, read where they lie.")
        .def(nb::init<nb::sequence, nb::sequence, nb::handle, nb::handle, nb::handle, const char *, int,
                      const IvfSearcher *, const char *>(),
             nb::arg("codes"), nb::arg("ids"), nb::arg("centroids").none(), nb::arg("scale"), nb::arg("offset"),
             nb::arg("metric"), nb::kw_only(), nb::arg("bits") = 8, nb::arg("before").none() = nb::none(),
             nb::arg("level") = "auto")
        .def("search", &IvfSearcher::search, nb::arg("queries"), nb::arg("assignment"), nb::arg("k"), nb::kw_only(),
             nb::arg("num_threads") = 0, nb::arg("id_filter").none() = nb::none(),
             "Return (distances, ids) of the k nearest in the lists assigned to each query.")
        .def("range_search", &IvfSearcher::range_search, nb::arg("queries"), nb::arg("assignment"), nb::arg("radius"),
             nb::kw_only(), nb::arg("max_empty") = 0, nb::arg("num_threads") = 0,
             nb::arg("id_filter").none() = nb::none(),
             "Return (lims, distances, ids) of all items of the lists inside the radius of each query.")
        .def_prop_ro("nbytes", &IvfSearcher::nbytes, "Bytes held beside the lists: norms and tables.");
}

} // namespace mp
