// Exact branch and bound for the program of program.hpp; search.cpp tells the method.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "program.hpp"

namespace mathnas {

enum class Status { Optimal, TimeLimit, Interrupted };

struct Result {
  Status status = Status::Optimal;
  std::vector<std::vector<int>> found;  // choices, a candidate a node; best first
  double bound = 0.0;                   // no choice has a smaller ratio
  std::vector<double> multipliers;      // per row: where bounding of the whole ended
  std::int64_t boxes = 0;
  std::int64_t leaves = 0;
};

struct Options {
  std::size_t count = 1;            // how many of the best choices
  double seconds = 1e300;           // time limit
  std::vector<double> bounds;       // per row: a choice above it breaks the limit
  std::vector<double> surely;       // per row: a choice at most this large meets the limit
  std::vector<double> multipliers;  // where bounding starts, of an earlier solve; or empty
  // Whether a choice between `surely` and `bounds` meets every limit, exactly.
  std::function<bool(const std::vector<int> &)> holds;
  // Whether the caller wants to stop; asked now and then.
  std::function<bool()> interrupted;
};

// Thread-safe: everything that changes belongs to the call.
Result solve(const Program &program, const Options &options);

}  // namespace mathnas
