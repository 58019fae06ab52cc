// The graph that grows.
#include "search_call.hpp"
#include "searchers.hpp"

#include <algorithm>
#include <limits>

extern "C" {
#include "mp/hnsw.h"
}

namespace mp {
namespace {

class HnswGraph {
  public:
    HnswGraph(int64_t dim, int64_t capacity, nb::handle scale, nb::handle offset, const char *metric, int64_t max_m,
              int64_t ef_construction, uint64_t seed, int bits, float span, nb::handle feedback, bool keep_originals,
              const char *level) {
        const size_t checked = checked_dim(static_cast<size_t>(std::max<int64_t>(dim, 0)));
        const Quantization by(scale, offset, checked);
        check_capacity(capacity);
        in_range(max_m, 2, MP_HNSW_MAX_LINKS, "max_m", "hnswlib's M");
        in_range(ef_construction, 1, MP_MAX_ITEMS, "ef_construction", "the breadth of the search that finds links");
        if (span != 0)
            checked_range(span);
        if (span != 0 && keep_originals)
            throw nb::value_error("`span` must be 0 with keep_originals: there is nothing left over to rescore by");
        feedback_ = Feedback(feedback, checked);
        const mp_hnsw_settings settings = {checked,
                                           static_cast<size_t>(capacity),
                                           checked_bits(bits),
                                           span,
                                           keep_originals,
                                           by.scale.as<float>(),
                                           by.offset.as<float>(),
                                           feedback_.data(),
                                           metric_of(metric, true),
                                           find_kernels(level),
                                           static_cast<size_t>(max_m),
                                           static_cast<size_t>(std::max(ef_construction, max_m)),
                                           seed};
        raise_if_failed(mp_hnsw_create(&hnsw_, &settings));
        dim_ = checked;
        max_m_ = static_cast<size_t>(max_m);
        code_bytes_ = bits == 4 ? (checked + 1) / 2 : checked;
        has_residuals_ = span != 0;
        has_originals_ = keep_originals;
    }
    ~HnswGraph() {
        mp_hnsw_free(hnsw_);
    }
    HnswGraph(const HnswGraph &) = delete;

    nb::object add(nb::handle vectors_object, bool replace_deleted, int num_threads) {
        const Array vectors = finite_array(vectors_object, "vectors", 2);
        require_columns(vectors, "vectors", dim_);
        nb::object ids = empty_array(nb::int_(vectors.shape(0)), "int64");
        Array out(ids, "result", "int64", 1);
        mp_status status;
        {
            nb::gil_scoped_release release;
            status = mp_hnsw_add(hnsw_, vectors.as<float>(), vectors.shape(0), replace_deleted, num_threads,
                                 out.as_writable<int64_t>());
        }
        raise_if_failed(status);
        return ids;
    }
    void replace(nb::handle ids_object, nb::handle vectors_object, int num_threads) {
        const Array ids(ids_object, "ids", "int64", 1);
        const Array vectors = finite_array(vectors_object, "vectors", 2);
        require_columns(vectors, "vectors", dim_);
        require_length(vectors, "vectors", ids.shape(0), "the number of ids");
        std::vector<int64_t> claimed(ids.as<int64_t>(), ids.as<int64_t>() + ids.shape(0)); // ids may change meanwhile
        mp_status status;
        {
            nb::gil_scoped_release release;
            status = mp_hnsw_replace(hnsw_, vectors.as<float>(), vectors.shape(0), num_threads, claimed.data());
        }
        raise_if_failed(status);
    }
    nb::tuple search(nb::handle queries, int64_t k, int64_t ef, int num_threads, nb::handle id_filter) {
        at_least_one(ef, "ef", "the number of candidates to keep, k or more");
        Filter by(id_filter, Ids::growing, count());
        return search_with(queries, k, dim_, by,
                           [&](const float *rows, size_t n, size_t n_neighbors, float *distances, int64_t *ids) {
                               return mp_hnsw_search(hnsw_, rows, n, n_neighbors, static_cast<size_t>(ef), by.get(),
                                                     num_threads, distances, ids);
                           });
    }
    void mark_deleted(nb::handle ids) {
        mark(ids, true);
    }
    void unmark_deleted(nb::handle ids) {
        mark(ids, false);
    }
    nb::object deleted() {
        const size_t n = count();
        nb::object result = empty_array(nb::int_(n), "bool");
        Array out(result, "result", "bool", 1);
        mp_hnsw_deleted(hnsw_, out.as_writable<uint8_t>(), n);
        return result;
    }
    size_t n_deleted() {
        return mp_hnsw_n_deleted(hnsw_);
    }
    void resize(int64_t capacity) {
        check_capacity(capacity);
        mp_status status;
        {
            nb::gil_scoped_release release;
            status = mp_hnsw_resize(hnsw_, static_cast<size_t>(capacity));
        }
        raise_if_failed(status);
    }
    nb::object codes(nb::handle ids_object) {
        const Array ids(ids_object, "ids", "int64", 1);
        nb::object result = empty_array(nb::make_tuple(ids.shape(0), code_bytes_), "uint8");
        Array out(result, "result", "uint8", 2);
        const View view(hnsw_);
        for (size_t i = 0; i < ids.shape(0); i++) {
            const size_t id = checked_id(ids.as<int64_t>()[i]);
            std::copy_n(mp_item_code(&view.view.graph.items, id), code_bytes_,
                        out.as_writable<uint8_t>() + i * code_bytes_);
        }
        return result;
    }
    nb::object residuals(nb::handle ids_object) {
        const Array ids(ids_object, "ids", "int64", 1);
        if (!has_residuals_)
            return nb::none();
        nb::object result = empty_array(nb::make_tuple(ids.shape(0), dim_), "uint8");
        Array out(result, "result", "uint8", 2);
        const View view(hnsw_);
        for (size_t i = 0; i < ids.shape(0); i++) {
            const size_t id = checked_id(ids.as<int64_t>()[i]);
            std::copy_n(view.view.graph.items.residuals.codes + id * dim_, dim_, out.as_writable<uint8_t>() + i * dim_);
        }
        return result;
    }
    nb::object originals(nb::handle ids_object) {
        const Array ids(ids_object, "ids", "int64", 1);
        if (!has_originals_)
            return nb::none();
        nb::object result = empty_array(nb::make_tuple(ids.shape(0), dim_), "float32");
        Array out(result, "result", "float32", 2);
        const View view(hnsw_);
        for (size_t i = 0; i < ids.shape(0); i++) {
            const size_t id = checked_id(ids.as<int64_t>()[i]);
            std::copy_n(view.view.graph.items.originals + id * dim_, dim_, out.as_writable<float>() + i * dim_);
        }
        return result;
    }
    void fill(nb::handle codes_object, nb::handle residuals_object, nb::handle level0_object, nb::handle levels_object,
              nb::handle lists_object, int64_t entry_point, int64_t max_level, nb::handle originals_object) {
        const Array codes(codes_object, "codes", "uint8", 2), level0(level0_object, "level0", "uint32", 2);
        const Array levels(levels_object, "element_levels", "int32", 1), lists(lists_object, "link_lists", "uint32", 1);
        Array residuals, originals;
        const size_t n = codes.shape(0);
        require_columns(codes, "codes", code_bytes_);
        require_length(level0, "level0", n, "the number of codes");
        require_columns(level0, "level0", 1 + 2 * max_m_);
        require_length(levels, "element_levels", n, "the number of codes");
        if (has_residuals_ == residuals_object.is_none())
            throw nb::value_error("`residuals` must be given if the graph has a span, and only then");
        if (has_residuals_) {
            residuals = Array(residuals_object, "residuals", "uint8", 2);
            require_length(residuals, "residuals", n, "the number of codes");
            require_columns(residuals, "residuals", dim_);
        }
        if (has_originals_ == originals_object.is_none())
            throw nb::value_error("`originals` must be given if the graph keeps them, and only then");
        if (has_originals_) {
            originals = finite_array(originals_object, "originals", 2);
            require_length(originals, "originals", n, "the number of codes");
            require_columns(originals, "originals", dim_);
        }
        const mp_hnsw_arrays arrays = {codes.as<uint8_t>(),
                                       residuals.as<uint8_t>(),
                                       originals.as<float>(),
                                       level0.as<uint32_t>(),
                                       levels.as<int32_t>(),
                                       lists.as<uint32_t>(),
                                       n,
                                       lists.shape(0),
                                       entry_point,
                                       max_level};
        mp_status status;
        {
            nb::gil_scoped_release release;
            status = mp_hnsw_fill(hnsw_, &arrays);
        }
        raise_if_failed(status);
    }
    nb::dict arrays() {
        const Freeze frozen(hnsw_);
        const size_t n = count();
        nb::object codes = empty_array(nb::make_tuple(n, code_bytes_), "uint8");
        nb::object residuals = has_residuals_ ? empty_array(nb::make_tuple(n, dim_), "uint8") : nb::none();
        nb::object originals = has_originals_ ? empty_array(nb::make_tuple(n, dim_), "float32") : nb::none();
        nb::object level0 = empty_array(nb::make_tuple(n, 1 + 2 * max_m_), "uint32");
        nb::object levels = empty_array(nb::int_(n), "int32");
        nb::object lists = empty_array(nb::int_(mp_hnsw_link_lists_size(hnsw_)), "uint32");
        {
            Array codes_out(codes, "codes", "uint8", 2), level0_out(level0, "level0", "uint32", 2), residuals_out,
                originals_out;
            Array levels_out(levels, "element_levels", "int32", 1), lists_out(lists, "link_lists", "uint32", 1);
            if (has_residuals_)
                residuals_out = Array(residuals, "residuals", "uint8", 2);
            if (has_originals_)
                originals_out = Array(originals, "originals", "float32", 2);
            const mp_hnsw_copy copy = {codes_out.as_writable<uint8_t>(),   residuals_out.as_writable<uint8_t>(),
                                       originals_out.as_writable<float>(), level0_out.as_writable<uint32_t>(),
                                       lists_out.as_writable<uint32_t>(),  levels_out.as_writable<int32_t>()};
            mp_hnsw_copy_out(hnsw_, &copy);
        }
        nb::dict result;
        result["codes"] = codes;
        result["residuals"] = residuals;
        result["originals"] = originals;
        result["level0"] = level0;
        result["element_levels"] = levels;
        result["link_lists"] = lists;
        result["entry_point"] = entry_point();
        result["max_level"] = max_level();
        return result;
    }
    size_t level_of(int64_t id) {
        const View view(hnsw_);
        return mp_hnsw_level(&view.view, checked_id(id));
    }
    nb::object links(int64_t id, int64_t level) {
        const View view(hnsw_);
        const size_t node = checked_id(id);
        in_range(level, 0, static_cast<int64_t>(mp_hnsw_level(&view.view, node)), "level", "a level of that node");
        nb::object result = empty_array(nb::int_(2 * max_m_), "int32");
        Array out(result, "result", "int32", 1);
        const size_t count = mp_hnsw_links(&view.view, node, static_cast<size_t>(level), out.as_writable<int32_t>());
        return result[nb::slice(nb::int_(0), nb::int_(count), nb::none())];
    }
    int64_t entry_point() {
        const View view(hnsw_);
        return view.view.graph.items.n ? static_cast<int64_t>(view.view.graph.entry_point) : -1;
    }
    int64_t max_level() {
        const View view(hnsw_);
        return view.view.graph.items.n ? static_cast<int64_t>(view.view.graph.max_level) : -1;
    }
    size_t link_lists_size() {
        const Freeze frozen(hnsw_);
        return mp_hnsw_link_lists_size(hnsw_);
    }
    size_t count() const {
        return mp_hnsw_count(hnsw_);
    }
    size_t capacity() const {
        return mp_hnsw_capacity(hnsw_);
    }
    size_t nbytes_codes() const {
        size_t codes, graph;
        mp_hnsw_nbytes(hnsw_, &codes, &graph);
        return codes;
    }
    size_t nbytes_graph() const {
        size_t codes, graph;
        mp_hnsw_nbytes(hnsw_, &codes, &graph);
        return graph;
    }

  private:
    // Holds insertions up. They need no GIL to end, so it is kept but while this waits for them.
    struct Freeze {
        explicit Freeze(mp_hnsw *hnsw) : hnsw_(hnsw) {
            nb::gil_scoped_release release;
            mp_hnsw_freeze(hnsw);
        }
        ~Freeze() {
            mp_hnsw_thaw(hnsw_);
        }
        Freeze(const Freeze &) = delete;

      private:
        mp_hnsw *hnsw_;
    };
    struct View {
        explicit View(mp_hnsw *hnsw) : hnsw_(hnsw) {
            mp_hnsw_borrow(hnsw, &view);
        }
        ~View() {
            mp_hnsw_return(hnsw_, &view);
        }
        View(const View &) = delete;
        mp_hnsw_view view;

      private:
        mp_hnsw *hnsw_;
    };

    mp_hnsw *hnsw_ = nullptr;
    Feedback feedback_; // the graph reads it
    size_t dim_ = 0, max_m_ = 0, code_bytes_ = 0;
    bool has_residuals_ = false, has_originals_ = false;

    void mark(nb::handle ids_object, bool is_deleted) {
        const Array ids(ids_object, "ids", "int64", 1);
        raise_if_failed(mp_hnsw_mark(hnsw_, ids.as<int64_t>(), ids.shape(0), is_deleted));
    }
    static void check_capacity(int64_t capacity) {
        in_range(capacity, 0, MP_MAX_ITEMS, "capacity", "the number of nodes to make room for");
    }
    size_t checked_id(int64_t id) const {
        const int64_t count = static_cast<int64_t>(mp_hnsw_count(hnsw_));
        if (id < 0 || id >= count)
            throw nb::index_error(("`id` must be below " + std::to_string(count) + ", the number of nodes, got " +
                                   std::to_string(id) + ": pass what add() returned")
                                      .c_str());
        return static_cast<size_t>(id);
    }
};

} // namespace

void bind_hnsw(nb::module_ &module) {
    nb::class_<HnswGraph>(module, "HnswGraph", "An HNSW graph over codes that grows while it is searched.")
        .def(nb::init<int64_t, int64_t, nb::handle, nb::handle, const char *, int64_t, int64_t, uint64_t, int, float,
                      nb::handle, bool, const char *>(),
             nb::arg("dim"), nb::arg("capacity"), nb::arg("scale"), nb::arg("offset"), nb::arg("metric"), nb::kw_only(),
             nb::arg("max_m") = 16, nb::arg("ef_construction") = 200, nb::arg("seed") = 100, nb::arg("bits") = 8,
             nb::arg("span") = 0.0f, nb::arg("feedback").none() = nb::none(), nb::arg("keep_originals") = false,
             nb::arg("level") = "auto")
        .def("fill", &HnswGraph::fill, nb::arg("codes"), nb::arg("residuals").none(), nb::arg("level0"),
             nb::arg("element_levels"), nb::arg("link_lists"), nb::arg("entry_point"), nb::arg("max_level"),
             nb::arg("originals").none() = nb::none(), "Put the nodes of an existing graph into this empty one.")
        .def("arrays", &HnswGraph::arrays, "Return the graph as fill() takes it.")
        .def("add", &HnswGraph::add, nb::arg("vectors"), nb::kw_only(), nb::arg("replace_deleted") = false,
             nb::arg("num_threads") = 0, "Add vectors and return their ids, which go on from the last.")
        .def("replace", &HnswGraph::replace, nb::arg("ids"), nb::arg("vectors"), nb::kw_only(),
             nb::arg("num_threads") = 0, "Give nodes other vectors.")
        .def("search", &HnswGraph::search, nb::arg("queries"), nb::arg("k"), nb::arg("ef"), nb::kw_only(),
             nb::arg("num_threads") = 0, nb::arg("id_filter").none() = nb::none(),
             "Return (distances, ids) of the k nearest nodes found with a pool of ef.")
        .def("mark_deleted", &HnswGraph::mark_deleted, nb::arg("ids"), "Take nodes out of the results.")
        .def("unmark_deleted", &HnswGraph::unmark_deleted, nb::arg("ids"), "Take nodes back into the results.")
        .def("deleted", &HnswGraph::deleted, "Return for each node whether it is deleted.")
        .def_prop_ro("n_deleted", &HnswGraph::n_deleted, "Number of nodes that are deleted.")
        .def("resize", &HnswGraph::resize, nb::arg("capacity"), "Make room for `capacity` nodes.")
        .def("codes", &HnswGraph::codes, nb::arg("ids"), "Return the codes of some nodes, (len(ids), d).")
        .def("residuals", &HnswGraph::residuals, nb::arg("ids"), "Return the second level of some nodes, or None.")
        .def("originals", &HnswGraph::originals, nb::arg("ids"), "Return the vectors of some nodes, or None.")
        .def("level_of", &HnswGraph::level_of, nb::arg("node"), "Return the highest level that a node is in.")
        .def("links", &HnswGraph::links, nb::arg("node"), nb::arg("level"), "Return the ids that a node links to.")
        .def_prop_ro("entry_point", &HnswGraph::entry_point, "The node that searches begin at, -1 if there is none.")
        .def_prop_ro("max_level", &HnswGraph::max_level, "The level of the entry point, -1 if there is none.")
        .def_prop_ro("link_lists_size", &HnswGraph::link_lists_size, "Length of what arrays() returns as link_lists.")
        .def_prop_ro("count", &HnswGraph::count, "Number of nodes.")
        .def_prop_ro("capacity", &HnswGraph::capacity, "Number of nodes that there is room for.")
        .def_prop_ro("nbytes_codes", &HnswGraph::nbytes_codes, "Bytes of codes and norms, padding and room included.")
        .def_prop_ro("nbytes_graph", &HnswGraph::nbytes_graph, "Bytes of the links of all levels, room included.");
}

} // namespace mp
