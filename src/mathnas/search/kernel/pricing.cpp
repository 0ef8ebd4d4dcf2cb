#include "pricing.hpp"

#include <limits>

// Compiled twice, for any x86-64 and for those with AVX2; the loader takes the better one. The
// sanitizers are not there yet when it does.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__) && \
    !defined(__SANITIZE_ADDRESS__)
#define MATHNAS_WIDE __attribute__((target_clones("default", "avx2")))
#else
#define MATHNAS_WIDE
#endif

namespace mathnas {
namespace {

constexpr int kLanes = 4;

MATHNAS_WIDE void add_scaled(double factor, const double *values, double *sums, std::size_t n) {
  for (std::size_t e = 0; e < n; ++e) sums[e] += factor * values[e];
}

MATHNAS_WIDE void pick_least_of(const double *priced, const int *start, int nodes, int *pick) {
  for (int q = 0; q < nodes; ++q) {
    const int end = start[q + 1];
    int e = start[q], at = e;
    double least = priced[e];
    if (end - e < 3 * kLanes) {
      while (++e < end) {
        const bool less = priced[e] < least;
        least = less ? priced[e] : least;
        at = less ? e : at;
      }
    } else {  // the price first, in lanes, then its position
      double lane[kLanes];
      for (int j = 0; j < kLanes; ++j) lane[j] = priced[e + j];
      for (e += kLanes; e + kLanes <= end; e += kLanes)
        for (int j = 0; j < kLanes; ++j) lane[j] = priced[e + j] < lane[j] ? priced[e + j] : lane[j];
      for (; e < end; ++e) least = priced[e] < least ? priced[e] : least;
      for (int j = 0; j < kLanes; ++j) least = lane[j] < least ? lane[j] : least;
      while (at + 1 < end && priced[at] != least) ++at;
    }
    pick[q] = at;
  }
}

}  // namespace

void price(const std::vector<double> &linear, const std::vector<double> &weights,
           const std::vector<double> &multipliers, std::vector<double> &priced) {
  const std::size_t n = linear.size();
  priced = linear;
  for (std::size_t k = 0; k < multipliers.size(); ++k)
    if (multipliers[k] != 0.0)
      add_scaled(multipliers[k], weights.data() + k * n, priced.data(), n);
}

void pick_least(const std::vector<double> &priced, const std::vector<int> &start,
                std::vector<int> &pick) {
  pick_least_of(priced.data(), start.data(), static_cast<int>(start.size()) - 1, pick.data());
}

}  // namespace mathnas
