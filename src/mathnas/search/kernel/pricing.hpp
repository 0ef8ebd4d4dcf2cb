// The two loops in which the search spends most of its time.
#pragma once

#include <cstddef>
#include <vector>

namespace mathnas {

// priced[e] = linear[e] + sum over k of multipliers[k] * weights[k * n + e], for n = linear.size()
// candidates.
void price(const std::vector<double> &linear, const std::vector<double> &weights,
           const std::vector<double> &multipliers, std::vector<double> &priced);

// pick[q] = the first of the positions start[q] .. start[q + 1] - 1 with the least price. No range
// is empty or without a finite price.
void pick_least(const std::vector<double> &priced, const std::vector<int> &start,
                std::vector<int> &pick);

}  // namespace mathnas
