// The searchers: a Python object holds the arrays, the core's view of them and the working memory of searches.
#include "searchers.hpp"

#include "range_call.hpp"
#include "search_call.hpp"

extern "C" {
#include "mp/flat.h"
#include "mp/forest.h"
#include "mp/graph.h"
#include "mp/memory.h"
}

namespace mp {
namespace {

nb::tuple scan_range(const mp_items &items, mp_scratch_pool &scratches, nb::handle queries, float radius,
                     int num_threads, nb::handle id_filter) {
    Filter by(id_filter, Ids::positions, items.n);
    return range_search_with(
        queries, radius, items.dim, num_threads, by,
        [&](const mp_range &range, mp_range_hits *hits) { return mp_range_flat(&items, &scratches, &range, hits); });
}

class FlatSearcher {
  public:
    FlatSearcher(nb::handle codes, nb::handle norms, nb::handle scale, nb::handle offset, const char *metric, int bits,
                 const char *level)
        : items_(codes, norms, scale, offset, metric, bits, level) {
    }
    void add_residuals(nb::handle residuals, nb::handle norms, float range) {
        residuals_.attach(items_.items, residuals, norms, range);
    }
    void add_originals(nb::handle vectors) {
        originals_.attach(items_.items, vectors);
    }
    nb::tuple search(nb::handle queries, int64_t k, int num_threads, nb::handle id_filter) {
        Filter by(id_filter, Ids::positions, items_.items.n);
        return search_with(queries, k, items_.items.dim, by,
                           [&](const float *rows, size_t n, size_t n_neighbors, float *distances, int64_t *ids) {
                               mp_flat flat = {&items_.items, &scratches_.pool};
                               return mp_flat_search(&flat, rows, n, n_neighbors, by.get(), num_threads, distances,
                                                     ids);
                           });
    }
    nb::tuple range_search(nb::handle queries, float radius, int num_threads, nb::handle id_filter) {
        return scan_range(items_.items, scratches_.pool, queries, radius, num_threads, id_filter);
    }

  private:
    Items items_;
    Residuals residuals_;
    Originals originals_;
    Scratches scratches_;
};

class LinkedGraphSearcher {
  public:
    LinkedGraphSearcher(nb::handle codes, nb::handle norms, nb::handle offsets, nb::handle neighbors,
                        nb::handle cum_neighbors, int64_t entry_point, int64_t max_level, nb::handle scale,
                        nb::handle offset, const char *metric, int bits, const char *level)
        : items_(codes, norms, scale, offset, metric, bits, level), offsets_(offsets, "offsets", "uint64", 1),
          neighbors_(neighbors, "neighbors", "int32", 1), cum_(cum_neighbors, "cum_neighbors", "int32", 1) {
        graph_.items = items_.items;
        raise_if_failed(mp_graph_link(&graph_, offsets_.as<uint64_t>(), offsets_.shape(0), neighbors_.as<int32_t>(),
                                      neighbors_.shape(0), cum_.as<int32_t>(), cum_.shape(0), entry_point, max_level));
        mp_advise_huge(neighbors_.as<int32_t>(), neighbors_.shape(0) * sizeof(int32_t));
    }
    void add_residuals(nb::handle residuals, nb::handle norms, float range) {
        residuals_.attach(graph_.items, residuals, norms, range);
    }
    void add_originals(nb::handle vectors) {
        originals_.attach(graph_.items, vectors);
    }
    nb::tuple search(nb::handle queries, int64_t k, int64_t ef, int num_threads, nb::handle id_filter) {
        at_least_one(ef, "ef", "the number of candidates to keep, k or more");
        Filter by(id_filter, Ids::positions, graph_.items.n);
        return search_with(queries, k, graph_.items.dim, by,
                           [&](const float *rows, size_t n, size_t n_neighbors, float *distances, int64_t *ids) {
                               return mp_graph_search(&graph_, &scratches_.pool, rows, n, n_neighbors,
                                                      static_cast<size_t>(ef), by.get(), num_threads, distances, ids);
                           });
    }
    nb::tuple range_search(nb::handle queries, float radius, int num_threads, nb::handle id_filter) {
        return scan_range(graph_.items, scratches_.pool, queries, radius, num_threads, id_filter);
    }

  private:
    Items items_;
    Residuals residuals_;
    Originals originals_;
    Scratches scratches_;
    Array offsets_, neighbors_, cum_;
    mp_graph graph_ = {};
};

class ForestSearcher {
  public:
    ForestSearcher(nb::handle codes, nb::handle norms, nb::handle scale, nb::handle offset, nb::handle plane_codes,
                   nb::handle plane_scale, nb::handle plane_bias, nb::handle children, nb::handle leaf_offsets,
                   nb::handle leaf_items, nb::handle roots, const char *metric, int bits, const char *level)
        : items_(codes, norms, scale, offset, metric, bits, level),
          plane_codes_(plane_codes, "plane_codes", "uint8", 2),
          plane_scale_(finite_array(plane_scale, "plane_scale", 1)),
          plane_bias_(finite_array(plane_bias, "plane_bias", 1)), children_(children, "children", "int32", 2),
          leaf_offsets_(leaf_offsets, "leaf_offsets", "uint32", 1), leaf_items_(leaf_items, "leaf_items", "int32", 1),
          roots_(roots, "roots", "int32", 1) {
        const size_t n_planes = plane_codes_.shape(0);
        if (plane_codes_.shape(1) != items_.items.dim)
            throw nb::value_error("`plane_codes` must have as many columns as `codes`");
        require_length(plane_scale_, "plane_scale", n_planes, "the number of planes");
        require_length(plane_bias_, "plane_bias", n_planes, "the number of planes");
        require_length(children_, "children", n_planes, "the number of planes");
        if (children_.shape(1) != 2)
            throw nb::value_error("`children` must have two columns, one a side");
        at_least_one(static_cast<int64_t>(leaf_offsets_.shape(0)), "len(leaf_offsets)",
                     "one more than there are leaves");
        forest_ = {.items = items_.items,
                   .plane_codes = plane_codes_.as<uint8_t>(),
                   .plane_scale = plane_scale_.as<float>(),
                   .plane_bias = plane_bias_.as<float>(),
                   .children = children_.as<int32_t>(),
                   .leaf_offsets = leaf_offsets_.as<uint32_t>(),
                   .leaf_items = leaf_items_.as<int32_t>(),
                   .roots = roots_.as<int32_t>(),
                   .n_planes = n_planes,
                   .n_leaves = leaf_offsets_.shape(0) - 1,
                   .n_leaf_items = leaf_items_.shape(0),
                   .n_roots = roots_.shape(0),
                   .largest_leaf = 0,
                   .has_all = false};
        raise_if_failed(mp_forest_check(&forest_));
    }
    void add_residuals(nb::handle residuals, nb::handle norms, float range) {
        residuals_.attach(forest_.items, residuals, norms, range);
    }
    void add_originals(nb::handle vectors) {
        originals_.attach(forest_.items, vectors);
    }
    nb::tuple search(nb::handle queries, int64_t k, int64_t search_k, int num_threads, nb::handle id_filter) {
        at_least_one(search_k, "search_k", "the number of items to look at");
        Filter by(id_filter, Ids::positions, items_.items.n);
        return search_with(queries, k, items_.items.dim, by,
                           [&](const float *rows, size_t n, size_t n_neighbors, float *distances, int64_t *ids) {
                               return mp_forest_search(&forest_, &scratches_.pool, rows, n, n_neighbors,
                                                       static_cast<size_t>(search_k), by.get(), num_threads, distances,
                                                       ids);
                           });
    }

  private:
    Items items_;
    Residuals residuals_;
    Originals originals_;
    Scratches scratches_;
    Array plane_codes_, plane_scale_, plane_bias_, children_, leaf_offsets_, leaf_items_, roots_;
    mp_forest forest_ = {};
};

// Gives a searcher class the methods that all of them have.
template <class Searcher> void bind_second_level(nb::class_<Searcher> &searcher) {
    searcher.def("add_residuals", &Searcher::add_residuals, nb::arg("residuals"), nb::arg("norms").none(),
                 nb::arg("span"), "Rescore with a second level from now on; to be called before the first search.");
    searcher.def("add_originals", &Searcher::add_originals, nb::arg("vectors"),
                 "Rescore by the vectors themselves from now on; to be called before the first search.");
}

// The same for those that score every code in a range search.
template <class Searcher> void bind_range_search(nb::class_<Searcher> &searcher) {
    searcher.def("range_search", &Searcher::range_search, nb::arg("queries"), nb::arg("radius"), nb::kw_only(),
                 nb::arg("num_threads") = 0, nb::arg("id_filter").none() = nb::none(),
                 "Return (lims, distances, ids) of all codes inside the radius of each query.");
}

} // namespace

void bind_searchers(nb::module_ &module) {
    nb::class_<FlatSearcher> flat(module, "FlatSearcher", "Exhaustive search over contiguous codes.");
    bind_second_level(flat);
    flat.def(nb::init<nb::handle, nb::handle, nb::handle, nb::handle, const char *, int, const char *>(),
             nb::arg("codes"), nb::arg("norms").none(), nb::arg("scale"), nb::arg("offset"), nb::arg("metric"),
             nb::kw_only(), nb::arg("bits") = 8, nb::arg("level") = "auto")
        .def("search", &FlatSearcher::search, nb::arg("queries"), nb::arg("k"), nb::kw_only(),
             nb::arg("num_threads") = 0, nb::arg("id_filter").none() = nb::none(),
             "Return (distances, ids) of the k nearest codes of each query.");
    bind_range_search(flat);

    nb::class_<LinkedGraphSearcher> graph(module, "LinkedGraphSearcher",
                                          "HNSW search over a graph in FAISS' layout, read where it lies.");
    bind_second_level(graph);
    graph
        .def(nb::init<nb::handle, nb::handle, nb::handle, nb::handle, nb::handle, int64_t, int64_t, nb::handle,
                      nb::handle, const char *, int, const char *>(),
             nb::arg("codes"), nb::arg("norms").none(), nb::arg("offsets"), nb::arg("neighbors"),
             nb::arg("cum_neighbors"), nb::arg("entry_point"), nb::arg("max_level"), nb::arg("scale"),
             nb::arg("offset"), nb::arg("metric"), nb::kw_only(), nb::arg("bits") = 8, nb::arg("level") = "auto")
        .def("search", &LinkedGraphSearcher::search, nb::arg("queries"), nb::arg("k"), nb::arg("ef"), nb::kw_only(),
             nb::arg("num_threads") = 0, nb::arg("id_filter").none() = nb::none(),
             "Return (distances, ids) of the k nearest codes found with a pool of ef.");
    bind_range_search(graph);

    nb::class_<ForestSearcher> forest(module, "ForestSearcher", "Annoy's search over a forest of split planes.");
    bind_second_level(forest);
    forest
        .def(nb::init<nb::handle, nb::handle, nb::handle, nb::handle, nb::handle, nb::handle, nb::handle, nb::handle,
                      nb::handle, nb::handle, nb::handle, const char *, int, const char *>(),
             nb::arg("codes"), nb::arg("norms").none(), nb::arg("scale"), nb::arg("offset"), nb::arg("plane_codes"),
             nb::arg("plane_scale"), nb::arg("plane_bias"), nb::arg("children"), nb::arg("leaf_offsets"),
             nb::arg("leaf_items"), nb::arg("roots"), nb::arg("metric"), nb::kw_only(), nb::arg("bits") = 8,
             nb::arg("level") = "auto")
        .def("search", &ForestSearcher::search, nb::arg("queries"), nb::arg("k"), nb::arg("search_k"), nb::kw_only(),
             nb::arg("num_threads") = 0, nb::arg("id_filter").none() = nb::none(),
             "Return (distances, ids) of the k nearest of the search_k items looked at.");
}

} // namespace mp
