// The normal form of a program, as mathnas.search.Program gives it.
#pragma once

#include <cstddef>
#include <vector>

namespace mathnas {

// minimise sum(cost) / (fixed_macs + sum(macs))^power over one candidate a node, subject to
// sum(weights) <= bounds in every row; the bounds belong to a solve. Rows are scaled so that their
// sums lie in [0, 1].
struct Program {
  std::vector<int> offsets;     // candidates of node i are offsets[i] .. offsets[i + 1] - 1
  std::vector<double> cost;     // per candidate
  std::vector<double> macs;     // per candidate
  std::vector<double> weights;  // rows x candidates
  std::vector<int> twin;        // per node: interchangeable nodes share a number
  // A stage is its absent candidates, one for each of two or more consecutive nodes: where one is
  // taken, so are the later ones.
  std::vector<std::vector<int>> stages;
  int rows = 0;
  double cost_step = 0.0;  // two choices differ in sum(cost) by a multiple of this; 0 where unknown
  double fixed_macs = 1.0;
  double power = 0.0;

  int nodes() const { return static_cast<int>(offsets.size()) - 1; }
  int candidates() const { return offsets.back(); }
  const double *row(int k) const {
    return weights.data() + static_cast<std::size_t>(k) * static_cast<std::size_t>(candidates());
  }
};

}  // namespace mathnas
