// What Python passes as a filter: None, a boolean array, a bitmap, an id array, a range or a callable.
#pragma once

#include "arguments.hpp"

#include <exception>
#include <vector>

extern "C" {
#include "mp/filter.h"
}

namespace mp {

class Filter {
  public:
    // n ids exist. An array may end before them if `may_grow`: ids that came after it was made are refused.
    Filter(nb::handle object, size_t n, bool may_grow);
    Filter(const Filter &) = delete;

    // NULL for None.
    const mp_filter *get() const {
        return is_none_ ? nullptr : &filter_;
    }
    // Raises what the callable raised; to be called with the GIL after the search.
    void raise_if_given_up() const;

  private:
    bool is_none_ = false;
    mp_filter filter_ = {};
    Array array_;
    std::vector<uint8_t> bits_;
    nb::object callable_;
    std::exception_ptr error_;

    void take_ids(nb::handle object, size_t n);
    static int ask(void *self, size_t id) noexcept;
};

} // namespace mp
