#pragma once

#include <nanobind/nanobind.h>

namespace mp {

void bind_searchers(nanobind::module_ &module);
void bind_hnsw(nanobind::module_ &module);
void bind_ivf(nanobind::module_ &module);

} // namespace mp
