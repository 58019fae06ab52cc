// What Python passes as a filter: None, a boolean array, a bitmap, an id array, a range or a callable.
#pragma once

#include "arguments.hpp"

#include <cstdlib>
#include <exception>
#include <memory>
#include <vector>

extern "C" {
#include "mp/filter.h"
}

namespace mp {

// What ids are to a searcher: positions below n, all of which an array has to judge; the same where n may have grown
// since the array was made, so that it may end before, and refuses what came after; or any values.
enum class Ids { positions, growing, any };

class Filter {
  public:
    // n is the number of positions, and means nothing for any values.
    Filter(nb::handle object, Ids kind, size_t n);
    ~Filter();
    Filter(const Filter &) = delete;

    // NULL for None.
    const mp_filter *get() const {
        return is_none_ ? nullptr : &filter_;
    }
    // Raises what the callable raised; to be called with the GIL after the search.
    void raise_if_given_up() const;

  private:
    struct Free {
        void operator()(uint8_t *memory) const {
            std::free(memory);
        }
    };

    bool is_none_ = false;
    mp_filter filter_ = {};
    Array array_;
    std::vector<uint8_t> bits_;
    mp_id_set set_ = {};
    nb::object callable_;
    std::unique_ptr<uint8_t[], Free> answers_; // by position: 0 not asked, 1 no, 2 yes
    size_t n_answers_ = 0;
    std::exception_ptr error_;

    void take_ids(nb::handle object, Ids kind, size_t n);
    void take_range(nb::handle range, Ids kind, size_t n);
    void take_callable(nb::handle callable, Ids kind, size_t n);
    static int ask(void *self, int64_t id) noexcept;
};

} // namespace mp
