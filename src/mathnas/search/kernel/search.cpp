// Branch and bound on min A / F^p under limits, one candidate a node.
//
// With u the lowest ratio known, a better choice has A - u F^p < 0. That is linear in the choice for
// p = 0 and p = 1; for 0 < p < 1 it is replaced by a linear function below it: the tangent of F^p
// where u >= 0, the secant over the box's interval of F where u < 0 (boxes whose secant is poor are
// split in F). So one linear bound serves every p, and Dinkelbach's iteration happens inside it: u
// falls whenever a better choice is met.
//
// A box is a set of choices: some nodes are fixed, the others have a list of candidates. It is
//   - tightened: candidates that break a limit, alone or in a weighted sum of the limits (the
//     surrogate), even with the lightest candidates elsewhere;
//   - bounded: the limits are relaxed with multipliers, which deflected Polyak subgradient steps
//     improve; a bound of 0 or more settles the box;
//   - reduced: candidates whose reduced cost lifts the bound to 0;
//   - enumerated depth first when few choices are left, cut by reduced costs and by what a limit
//     leaves unused (which costs its multiplier); of many choices the last nodes are taken
//     together, sorted by weight, so that those which use up a limit are found by bisection;
//   - otherwise split on the node whose candidates are nearly tied and differ much in weight.
//
// Stages (nodes of which the last ones may be absent) are kept by the search itself. The bound takes
// the best depth, by the sums of the cheapest candidates that are present and of the absent ones,
// so a reduced cost is that of the best depth with the candidate. Where several depths are left the
// box is split into one for each: the most promising one is searched first, as a whole program, and
// the others start with the ratio that it ends with.
//
// Twin nodes (equal candidates) are interchangeable: of choices that differ only in which twin takes
// which candidate, one is kept, unless several answers are asked for.
//
// Rounding: sums in a row are exact to about 1e-13, while bounds carry a tolerance of at least 1e-9;
// so a multiplier, however large, loses less by rounding than it gives away by the tolerance, and
// only the costs' rounding counts, which lies far below `cut_`.
#include "search.hpp"

#include "pricing.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <limits>
#include <numeric>
#include <set>
#include <utility>

namespace mathnas {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kPrune = 1e-11;
constexpr double kTolerance = 1e-9;
constexpr double kEnumerated = 1e12;  // choices that are listed rather than split,
constexpr std::int64_t kLeaves = 20'000;  // unless bounds cut so few that this many are looked at
constexpr double kHard = 1e6;  // with more choices than this, the cheapest ones are listed first,
constexpr double kGlance = 0.25;  // up to this share of what may be better,
constexpr std::int64_t kGlanced = 4'000;  // or until this many were looked at
constexpr double kJoined = 1e4;  // with more choices than this, the last nodes are taken together,
constexpr double kEndings = 3'000;  // with at most this many choices
constexpr std::size_t kChildren = 32;           // more candidates than this share one last child
constexpr std::size_t kUnclocked = 300'000;  // additions between two looks at the clock

// Open nodes begin .. end - 1 of a stage: the first ones are present, the others absent, and how
// many is open. The absent candidate is the last one of each.
struct Tail {
  int begin;
  int end;
};

struct Box {
  double cost = 0.0;            // sums over the fixed nodes
  double macs = 0.0;            // with the fixed part
  std::vector<double> used;     // per row
  std::vector<double> bounds;   // per row; boxes may differ in the rows that hold F
  std::vector<int> choice;      // per node; -1 where open
  std::vector<int> node;        // open nodes
  std::vector<int> start{0};    // candidates of open node q are id[start[q]] .. id[start[q + 1] - 1]
  std::vector<int> id;
  std::vector<Tail> tails;      // of stages whose depth is open, in the order of their nodes
  std::vector<double> multipliers;
  double bound = -kInfinity;    // no choice of the box has a smaller ratio
  int depth = 0;
  bool glanced = false;         // the cheapest choices were listed
  bool together = false;        // the limits were looked at together

  int open() const { return static_cast<int>(node.size()); }

  double choices() const {
    double number = 1.0;
    for (int q = 0; q < open(); ++q) number *= start[q + 1] - start[q];
    return number;
  }
};

// Linear function below -u F^p on an interval of F.
struct Line {
  double constant = 0.0;
  double slope = 0.0;
};

// Choices for the nodes that are listed last, in bins by their weight in one row: those that leave
// little of its limit unused are found at once.
struct Endings {
  std::vector<int> nodes;    // open nodes
  int row = 0;
  double lightest = 0.0;     // of that row's weights
  double fineness = 0.0;     // bins for a unit of weight
  std::vector<int> bin{0};   // choices of bin b are bin[b] .. bin[b + 1] - 1
  std::vector<double> sums;  // of each choice its reduced costs, then its weights in all rows
  std::vector<int> picked;   // of each choice a candidate a node

  int bin_of(double weight) const {
    const double place = (weight - lightest) * fineness;
    const int last = static_cast<int>(bin.size()) - 2;
    return place > 0.0 ? (place < last ? static_cast<int>(place) : last) : 0;
  }
};

class Search {
 public:
  Search(const Program &program, const Options &options)
      : program_(program), options_(options), begin_(std::chrono::steady_clock::now()) {
    scale();
    take_stages();
  }

  Result run() {
    std::vector<Box> stack;
    Box root = whole();
    std::vector<char> all(root.id.size(), 1);
    if (fold(root, all)) stack.push_back(std::move(root));
    while (!stack.empty() && !out_of_time()) {
      Box box = std::move(stack.back());
      stack.pop_back();
      if (box.bound >= (program_.power == 0.0 ? ratio_ - cut_ : ratio_)) continue;
      ++boxes_;
      if (!explore(box, stack)) stack.push_back(std::move(box));
    }
    Result result;
    result.status = status_;
    result.bound = pool_.empty() ? kInfinity : pool_.begin()->ratio;
    for (const Box &box : stack) result.bound = std::min(result.bound, box.bound);
    result.bound *= cost_unit_ / std::pow(macs_unit_, program_.power);
    for (const Found &found : pool_) result.found.push_back(found.choice);
    result.multipliers.assign(static_cast<std::size_t>(program_.rows), 0.0);
    for (std::size_t k = 0; k < active_.size() && k < root_multipliers_.size(); ++k)
      result.multipliers[active_[k]] = root_multipliers_[k];
    result.boxes = boxes_;
    result.leaves = leaves_;
    return result;
  }

 private:
  struct Found {
    double ratio;
    std::vector<int> choice;

    bool operator<(const Found &other) const {
      return ratio != other.ratio ? ratio < other.ratio : choice < other.choice;
    }
  };

  // ---- set-up ---------------------------------------------------------------------------------

  // Costs and F to about 1, so that one tolerance serves every table; for 0 < p < 1 two more rows
  // hold F and -F, whose bounds are the interval of a box.
  void scale() {
    cost_ = program_.cost;
    macs_ = program_.macs;
    double largest = 0.0, size = 0.0, range = 0.0;
    double low_macs = program_.fixed_macs, high_macs = program_.fixed_macs;
    for (int i = 0; i < program_.nodes(); ++i) {
      const auto [low, high] = range_of(cost_, i);
      const auto [least, most] = range_of(macs_, i);
      largest = std::max({largest, std::fabs(low), std::fabs(high)});
      size += std::max(std::fabs(low), std::fabs(high));
      range += high - low;
      low_macs += least;
      high_macs += most;
    }
    cost_unit_ = largest > 0 ? largest : 1.0;
    macs_unit_ = program_.power > 0 ? high_macs : 1.0;
    for (double &value : cost_) value /= cost_unit_;
    for (double &value : macs_) value /= macs_unit_;
    fixed_macs_ = program_.fixed_macs / macs_unit_;
    low_macs /= macs_unit_;
    high_macs /= macs_unit_;
    take_rows();
    if (curved()) {
      span_ = high_macs > low_macs ? high_macs - low_macs : 1.0;
      for (double sign : {1.0, -1.0})
        for (double macs : macs_) weights_.push_back(sign * macs / span_);
      bounds_.push_back((high_macs - fixed_macs_) / span_ + kTolerance);
      bounds_.push_back(-(low_macs - fixed_macs_) / span_ + kTolerance);
    }
    rows_ = static_cast<int>(bounds_.size());
    // a tenth of the guarantee, and no less than the rounding of a sum of costs
    cut_ = std::max(1e-15, std::max(0.1 * kTolerance * range, 1e-15 * size) / cost_unit_);
    if (program_.power == 0.0) cut_ = std::max(cut_, 0.999 * program_.cost_step / cost_unit_);
    last_macs_ = 0.5 * (low_macs + high_macs);
    ratio_ = worst_ratio(low_macs, high_macs);
  }

  void take_stages() {
    absent_of_.assign(program_.nodes(), -1);
    follows_.assign(program_.nodes() + 1, 0);
    for (const std::vector<int> &absent : program_.stages) {
      const int first = node_of(absent.front());
      std::copy(absent.begin(), absent.end(), absent_of_.begin() + first);
      std::fill_n(follows_.begin() + first + 1, absent.size() - 1, 1);
    }
  }

  // The limits that can be broken at all.
  void take_rows() {
    const std::size_t n = cost_.size();
    for (int k = 0; k < program_.rows; ++k) {
      const double *weights = program_.row(k);
      double most = 0.0;
      for (int i = 0; i < program_.nodes(); ++i)
        most += *std::max_element(weights + program_.offsets[i], weights + program_.offsets[i + 1]);
      if (most <= options_.surely[k]) continue;
      active_.push_back(k);
      weights_.insert(weights_.end(), weights, weights + n);
      bounds_.push_back(options_.bounds[k]);
      surely_.push_back(options_.surely[k]);
    }
    user_rows_ = static_cast<int>(active_.size());
  }

  std::pair<double, double> range_of(const std::vector<double> &values, int node) const {
    const auto [low, high] = std::minmax_element(values.begin() + program_.offsets[node],
                                                 values.begin() + program_.offsets[node + 1]);
    return {*low, *high};
  }

  // A ratio clearly above that of every choice.
  double worst_ratio(double low_macs, double high_macs) const {
    double worst = 0.0;
    for (int i = 0; i < program_.nodes(); ++i) worst += range_of(cost_, i).second;
    return worst / power(worst > 0 ? low_macs : high_macs) + (1e-3 + 2 * cut_) / power(low_macs);
  }

  Box whole() const {
    Box box;
    box.macs = fixed_macs_;
    box.used.assign(rows_, 0.0);
    box.bounds = bounds_;
    box.choice.assign(program_.nodes(), -1);
    box.multipliers.assign(rows_, 0.0);
    if (!options_.multipliers.empty())
      for (std::size_t k = 0; k < active_.size(); ++k)
        box.multipliers[k] = options_.multipliers[active_[k]];
    box.id.resize(program_.candidates());
    std::iota(box.id.begin(), box.id.end(), 0);
    box.node.resize(program_.nodes());
    std::iota(box.node.begin(), box.node.end(), 0);
    box.start = program_.offsets;
    for (const std::vector<int> &absent : program_.stages) {
      const int first = node_of(absent.front());
      for (std::size_t i = 0; i < absent.size(); ++i)
        std::rotate(box.id.begin() + absent[i], box.id.begin() + absent[i] + 1,
                    box.id.begin() + program_.offsets[first + i + 1]);
      box.tails.push_back({first, first + static_cast<int>(absent.size())});
    }
    return box;
  }

  // ---- small helpers --------------------------------------------------------------------------

  bool curved() const { return program_.power > 0.0 && program_.power < 1.0; }

  int node_of(int candidate) const {
    const auto next =
        std::upper_bound(program_.offsets.begin(), program_.offsets.end(), candidate);
    return static_cast<int>(next - program_.offsets.begin()) - 1;
  }

  double power(double macs) const {
    if (program_.power == 1.0) return macs;
    return program_.power == 0.0 ? 1.0 : std::pow(macs, program_.power);
  }

  const double *row(int k) const {
    return weights_.data() + static_cast<std::size_t>(k) * static_cast<std::size_t>(cost_.size());
  }

  bool out_of_time() {
    if (status_ != Status::Optimal) return true;
    if (options_.interrupted && options_.interrupted()) {
      status_ = Status::Interrupted;
      return true;
    }
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begin_;
    if (spent.count() > options_.seconds) status_ = Status::TimeLimit;
    return status_ != Status::Optimal;
  }

  // The same inside a box: looks at the clock when enough was done since.
  bool out_of_time_after(std::size_t additions) {
    unclocked_ += additions;
    if (unclocked_ < kUnclocked) return status_ != Status::Optimal;
    unclocked_ = 0;
    return out_of_time();
  }

  // Take a choice if it is better than the best known ones, and feasible.
  void offer(const std::vector<int> &choice) {
    double cost = 0.0, macs = fixed_macs_;
    for (int e : choice) {
      cost += cost_[e];
      macs += macs_[e];
    }
    const double ratio = cost / power(macs);
    if (ratio >= ratio_) return;
    bool close = false;
    for (int k = 0; k < user_rows_; ++k) {
      const double *weights = row(k);
      double used = 0.0;
      for (int e : choice) used += weights[e];
      if (used > bounds_[k]) return;
      close = close || used > surely_[k];
    }
    Found found{ratio, choice};
    if (pool_.count(found)) return;
    if (close) {  // asking is dear, and the same choice comes again and again
      if (rejected_.count(choice)) return;
      if (!options_.holds(choice)) {
        rejected_.insert(choice);
        return;
      }
    }
    pool_.insert(std::move(found));
    if (pool_.size() > options_.count) pool_.erase(std::prev(pool_.end()));
    if (pool_.size() == options_.count) ratio_ = std::min(ratio_, pool_.rbegin()->ratio);
  }

  // Keep the marked candidates, without those of depths that the others exclude; nodes with a
  // single one become fixed. False where a node has none.
  bool fold(Box &box, std::vector<char> &keep) {
    for (Tail &tail : box.tails)
      if (!shorten(box, tail, keep)) return false;
    const auto decided = [](const Tail &tail) { return tail.begin == tail.end; };
    box.tails.erase(std::remove_if(box.tails.begin(), box.tails.end(), decided), box.tails.end());
    auto tail = box.tails.begin();
    std::size_t write = 0;
    int nodes = 0, begin = box.start[0];
    for (int q = 0; q < box.open(); ++q) {
      if (tail != box.tails.end() && tail->begin == q) {  // all its nodes stay open
        *tail = {nodes, nodes + tail->end - q};
        ++tail;
      }
      const int end = box.start[q + 1];
      const std::size_t first = write;
      for (int e = begin; e < end; ++e)
        if (keep[e]) box.id[write++] = box.id[e];
      begin = end;
      if (write == first) return false;
      if (write == first + 1) {
        const int e = box.id[first];
        write = first;
        box.cost += cost_[e];
        box.macs += macs_[e];
        for (int k = 0; k < rows_; ++k) box.used[k] += row(k)[e];
        box.choice[box.node[q]] = e;
      } else {
        box.node[nodes] = box.node[q];
        box.start[nodes] = static_cast<int>(first);
        box.start[++nodes] = static_cast<int>(write);
      }
    }
    box.node.resize(nodes);
    box.start.resize(nodes + 1);
    box.id.resize(write);
    return true;
  }

  // The part of a stage that is open for the marked candidates, and unmark those that no depth
  // allows. False where no depth is left.
  bool shorten(const Box &box, Tail &tail, std::vector<char> &keep) const {
    Tail open{tail.begin, tail.end};  // present before, absent after
    for (int q = tail.end - 1; q >= tail.begin; --q) {
      const auto first = keep.begin() + box.start[q], absent = keep.begin() + box.start[q + 1] - 1;
      if (std::find(first, absent, 1) == absent) open.end = q;
      if (!*absent) open.begin = std::max(open.begin, q + 1);
    }
    if (open.begin > open.end) return false;
    for (int q = tail.begin; q < open.begin; ++q) keep[box.start[q + 1] - 1] = 0;
    std::fill(keep.begin() + box.start[open.end], keep.begin() + box.start[tail.end], 0);
    for (int q = open.end; q < tail.end; ++q) keep[box.start[q + 1] - 1] = 1;
    tail = open;
    return true;
  }

  // ---- tightening -----------------------------------------------------------------------------

  // Drop what breaks a limit by itself. False where the box has no feasible choice.
  bool tighten(Box &box) {
    std::vector<double> lightest, total;
    std::vector<char> keep;
    for (int round = 0; round < 20; ++round) {
      const int open = box.open();
      lightest.assign(static_cast<std::size_t>(open) * rows_, 0.0);
      total = box.used;
      for (int k = 0; k < rows_; ++k) {
        const double *weights = row(k);
        for (int q = 0; q < open; ++q) {
          double low = kInfinity;
          for (int e = box.start[q]; e < box.start[q + 1]; ++e)
            low = std::min(low, weights[box.id[e]]);
          lightest[static_cast<std::size_t>(q) * rows_ + k] = low;
          total[k] += low;
        }
        if (total[k] > box.bounds[k] + kPrune) return false;
      }
      keep.assign(box.id.size(), 1);
      bool dropped = false;
      for (int k = 0; k < rows_; ++k) {
        const double *weights = row(k);
        const double room = box.bounds[k] + kPrune - total[k];
        for (int q = 0; q < open; ++q) {
          const double most = room + lightest[static_cast<std::size_t>(q) * rows_ + k];
          for (int e = box.start[q]; e < box.start[q + 1]; ++e)
            if (weights[box.id[e]] > most) {
              keep[e] = 0;
              dropped = true;
            }
        }
      }
      if (!dropped) return true;
      if (!fold(box, keep)) return false;
    }
    return true;
  }

  // As tighten, for a weighted sum of the limits whose weights are sought by multiplicative
  // updates: several limits together often exclude what none excludes alone.
  bool tighten_together(Box &box, std::vector<double> &share, int steps, double *excess) {
    const int open = box.open();
    std::vector<double> mixed(box.id.size()), best_share = share, gradient(rows_);
    double best = -kInfinity;
    for (int step = 0; step < steps && !out_of_time_after(box.id.size() * rows_); ++step) {
      double value = 0.0;
      for (int k = 0; k < rows_; ++k) {
        gradient[k] = box.used[k] - box.bounds[k];
        value += share[k] * gradient[k];
      }
      mix(box, share, mixed);
      for (int q = 0; q < open; ++q) {
        int pick = box.start[q];
        for (int e = pick + 1; e < box.start[q + 1]; ++e)
          if (mixed[e] < mixed[pick]) pick = e;
        value += mixed[pick];
        for (int k = 0; k < rows_; ++k) gradient[k] += row(k)[box.id[pick]];
      }
      if (value > best) {
        best = value;
        best_share = share;
      }
      if (best > 1e-12) return false;
      double largest = 1e-300, total = 0.0;
      for (double g : gradient) largest = std::max(largest, std::fabs(g));
      for (int k = 0; k < rows_; ++k) {
        share[k] = std::max(1e-9, share[k]) * std::exp(gradient[k] / largest / std::sqrt(1.0 + step));
        total += share[k];
      }
      for (double &s : share) s /= total;
    }
    share = best_share;
    *excess = best;
    if (best == -kInfinity) return true;  // no time for a single step
    mix(box, share, mixed);
    std::vector<char> keep(box.id.size(), 1);
    bool dropped = false;
    for (int q = 0; q < open; ++q) {
      const auto begin = mixed.begin() + box.start[q], end = mixed.begin() + box.start[q + 1];
      const double low = *std::min_element(begin, end);
      for (int e = box.start[q]; e < box.start[q + 1]; ++e)
        if (mixed[e] - low + best > 1e-12) {
          keep[e] = 0;
          dropped = true;
        }
    }
    return !dropped || fold(box, keep);
  }

  void mix(const Box &box, const std::vector<double> &share, std::vector<double> &mixed) const {
    std::fill(mixed.begin(), mixed.end(), 0.0);
    for (int k = 0; k < rows_; ++k) {
      const double *weights = row(k);
      for (std::size_t e = 0; e < mixed.size(); ++e) mixed[e] += share[k] * weights[box.id[e]];
    }
  }

  // Both kinds of tightening; the second where it was found to pay.
  bool tighten_all(Box &box, bool first_turn) {
    if (!tighten(box)) return false;
    if (!tight_ || !first_turn || box.open() == 0) return true;
    std::vector<double> share = share_;
    double excess = 0.0;
    return tighten_together(box, share, 12, &excess) && tighten(box);
  }

  // The second kind for the whole, once bounding has left too much to list: the search is a hard
  // one. Finds whether the limits leave so little room together that it pays further down too.
  bool tighten_whole(Box &box) {
    std::vector<double> share(rows_, 1.0 / rows_);
    double excess = 0.0;
    if (!tighten_together(box, share, 60, &excess)) return false;
    tight_ = excess > -0.05;
    if (tight_ && box.open() > 0 && !tighten_together(box, share, 200, &excess)) return false;
    share_ = share;
    return true;
  }

  // ---- bounding -------------------------------------------------------------------------------

  // The range of F in a box.
  void macs_range(const Box &box, double *low, double *high) const {
    *low = *high = box.macs;
    for (int q = 0; q < box.open(); ++q) {
      double least = kInfinity, most = -kInfinity;
      for (int e = box.start[q]; e < box.start[q + 1]; ++e) {
        least = std::min(least, macs_[box.id[e]]);
        most = std::max(most, macs_[box.id[e]]);
      }
      *low += least;
      *high += most;
    }
    if (curved()) {
      *high = std::min(*high, fixed_macs_ + box.bounds[user_rows_] * span_);
      *low = std::min(std::max(*low, fixed_macs_ - box.bounds[user_rows_ + 1] * span_), *high);
    }
  }

  Line line(double low, double high) const {
    const double u = ratio_, p = program_.power;
    if (p == 0.0) return {-u, 0.0};
    if (p == 1.0) return {0.0, -u};
    if (u >= 0.0) {
      const double at = std::min(std::max(last_macs_, low), high);
      const double slope = p * std::pow(at, p - 1.0);
      return {-u * (std::pow(at, p) - slope * at), -u * slope};
    }
    const double at_low = std::pow(low, p);
    const double slope =
        high > low * (1 + 1e-12) ? (std::pow(high, p) - at_low) / (high - low) : 0.0;
    return {-u * (at_low - slope * low), -u * slope};
  }

  // The box's candidates in arrays of their own, so that the loops below run over contiguous
  // memory.
  void gather(const Box &box) {
    const std::size_t n = box.id.size();
    packed_.resize(n * rows_);
    for (int k = 0; k < rows_; ++k) {
      const double *weights = row(k);
      double *packed = packed_.data() + static_cast<std::size_t>(k) * n;
      for (std::size_t e = 0; e < n; ++e) packed[e] = weights[box.id[e]];
    }
    linear_.resize(n);
    priced_.resize(n);
  }

  void set_linear(const Box &box, const Line &line) {
    for (std::size_t e = 0; e < linear_.size(); ++e)
      linear_[e] = cost_[box.id[e]] + line.slope * macs_[box.id[e]];
  }

  // The choice with the least sum of prices, as a position in box.id for each open node.
  void pick_cheapest(const Box &box, std::vector<int> &pick) {
    absent_.clear();
    for (const Tail &tail : box.tails)
      for (int q = tail.begin; q < tail.end; ++q) {
        double &price = priced_[box.start[q + 1] - 1];
        absent_.push_back(price);
        price = kInfinity;
      }
    pick_least(priced_, box.start, pick);
    const double *absent = absent_.data();
    for (const Tail &tail : box.tails) {
      double total = 0.0, least = 0.0;  // beside no node of the tail
      int end = tail.begin;
      for (int q = tail.begin; q < tail.end; ++q) {
        total += priced_[pick[q]] - *absent;
        if (total < least) {
          least = total;
          end = q + 1;
        }
        priced_[box.start[q + 1] - 1] = *absent++;
      }
      for (int q = end; q < tail.end; ++q) pick[q] = box.start[q + 1] - 1;
    }
  }

  // Improve the box's multipliers; returns the best bound on A - u F^p, and `pick_`, the relaxed
  // choice (a position in box.id for each open node).
  double bound(Box &box, int steps, double low, double high) {
    const int open = box.open();
    gather(box);
    std::vector<double> &best_mu = box.multipliers;
    std::vector<double> mu = box.multipliers, gradient(rows_), direction(rows_, 0.0);
    std::vector<int> pick(open);
    pick_.assign(box.start.begin(), box.start.end() - 1);
    Line now = line(low, high);
    set_linear(box, now);
    double seen = ratio_, best = -kInfinity, step = 1.0;
    int stale = 0;
    for (int turn = 0; turn < steps && !out_of_time_after(box.id.size() * (rows_ + 2)); ++turn) {
      price(linear_, packed_, mu, priced_);
      pick_cheapest(box, pick);
      double value = box.cost + now.constant + now.slope * box.macs;
      for (int k = 0; k < rows_; ++k) {
        gradient[k] = box.used[k] - box.bounds[k];
        value += mu[k] * gradient[k];
      }
      for (int least : pick) value += priced_[least];
      for (int k = 0; k < rows_; ++k) {
        const double *packed = packed_.data() + static_cast<std::size_t>(k) * box.id.size();
        for (int least : pick) gradient[k] += packed[least];
      }
      if (std::all_of(gradient.begin(), gradient.end(), [](double g) { return g <= 0.0; })) {
        double cost = box.cost;
        for (int least : pick) cost += cost_[box.id[least]];
        if (cost / power(macs_of(box, pick)) < ratio_) offer(completed(box, pick));
      }
      if (value > best) {
        if (best > -kInfinity && value > best + 1e-3 * std::fabs(best)) stale = 0;
        best = value;
        best_mu = mu;
        pick_ = pick;
        if (curved()) last_macs_ = macs_of(box, pick);
      } else if (++stale >= 4) {
        step *= 0.6;
        stale = 0;
        mu = best_mu;
        std::fill(direction.begin(), direction.end(), 0.0);
        if (curved() && ratio_ >= 0.0 && box.depth == 0) {  // move the tangent
          now = line(low, high);
          set_linear(box, now);
        }
      }
      if (best >= -cut_ && seen == ratio_) break;
      if (seen != ratio_) {  // u fell: the bound is on another function now
        seen = ratio_;
        now = line(low, high);
        set_linear(box, now);
        best = -kInfinity;
        step = std::max(step, 0.5);
        if (box.depth == 0) steps = std::min(steps + 20, 2000);
        continue;
      }
      double along = 0.0, before = 0.0, steep = 0.0, length = 0.0;
      for (int k = 0; k < rows_; ++k) {
        if (mu[k] <= 0.0 && gradient[k] < 0.0) gradient[k] = 0.0;
        along += gradient[k] * direction[k];
        before += direction[k] * direction[k];
        steep += gradient[k] * gradient[k];
      }
      // along a ridge: without the part of the last direction that this one takes back, unless
      // nothing else is left
      const bool ridge = along < 0.0 && steep * before - along * along > 1e-4 * steep * before;
      const double kept = ridge ? -along / before : 0.4;
      for (int k = 0; k < rows_; ++k) {
        direction[k] = gradient[k] + kept * direction[k];
        length += direction[k] * direction[k];
      }
      if (length < 1e-18 || step < 1e-2) break;
      const double move = step * std::max(1e-9, -value) / length;
      for (int k = 0; k < rows_; ++k) mu[k] = std::max(0.0, mu[k] + move * direction[k]);
    }
    return best;
  }

  // Bound and reduced costs (in `reduced_`) for the box's multipliers and the u of now.
  double reduce(const Box &box, double low, double high) {
    gather(box);
    const Line now = line(low, high);
    set_linear(box, now);
    price(linear_, packed_, box.multipliers, priced_);
    reduced_ = priced_;
    double value = box.cost + now.constant + now.slope * box.macs;
    for (int k = 0; k < rows_; ++k) value += box.multipliers[k] * (box.used[k] - box.bounds[k]);
    auto tail = box.tails.begin();
    for (int q = 0; q < box.open(); ++q) {
      if (tail != box.tails.end() && tail->begin == q) {
        value += reduce(box, *tail);
        q = tail++->end - 1;
        continue;
      }
      const auto begin = reduced_.begin() + box.start[q], end = reduced_.begin() + box.start[q + 1];
      const double least = *std::min_element(begin, end);
      value += least;
      std::for_each(begin, end, [least](double &r) { r -= least; });
    }
    return value;
  }

  // The same for a tail: a candidate's reduced cost is what it adds with the best depth for it.
  // Leaves in `deeper_` what each depth adds, from no node on.
  double reduce(const Box &box, const Tail &tail) {
    const int nodes = tail.end - tail.begin;
    deeper_.assign(nodes + 1, 0.0);
    double least = 0.0;
    for (int d = 0; d < nodes; ++d) {
      const auto begin = reduced_.begin() + box.start[tail.begin + d];
      const auto absent = reduced_.begin() + box.start[tail.begin + d + 1] - 1;
      const double present = *std::min_element(begin, absent);
      std::for_each(begin, absent, [present](double &r) { r -= present; });
      deeper_[d + 1] = deeper_[d] + present - *absent;
      least += *absent;
    }
    const double best = *std::min_element(deeper_.begin(), deeper_.end());
    for (double &total : deeper_) total -= best;
    double with = kInfinity, without = kInfinity;
    for (int d = 0; d < nodes; ++d) {
      without = std::min(without, deeper_[d]);
      reduced_[box.start[tail.begin + d + 1] - 1] = without;
    }
    for (int d = nodes - 1; d >= 0; --d) {
      with = std::min(with, deeper_[d + 1]);
      const auto begin = reduced_.begin() + box.start[tail.begin + d];
      const auto absent = reduced_.begin() + box.start[tail.begin + d + 1] - 1;
      std::for_each(begin, absent, [with](double &r) { r += with; });
    }
    return least + best;
  }

  double macs_of(const Box &box, const std::vector<int> &pick) const {
    double macs = box.macs;
    for (int least : pick) macs += macs_[box.id[least]];
    return macs;
  }

  std::vector<int> completed(const Box &box, const std::vector<int> &pick) const {
    std::vector<int> choice = box.choice;
    for (int q = 0; q < box.open(); ++q) choice[box.node[q]] = box.id[pick[q]];
    return choice;
  }

  // ---- one box --------------------------------------------------------------------------------

  // Settle a box or put the boxes that it falls into on the stack. False where the time came first:
  // the box is as good as untouched, but for what was proven of it.
  bool explore(Box &box, std::vector<Box> &stack) {
    double value = 0.0, low = 0.0, high = 0.0;
    if (box.depth == 0 && !box.together) tight_ = false;
    for (int turn = 0; turn < 6; ++turn) {
      if (!tighten_all(box, turn == 0)) return true;
      if (box.open() == 0) return settle(box);
      const double before = ratio_;
      macs_range(box, &low, &high);
      bound(box, box.depth == 0 ? 400 : (box.depth < 3 ? 40 : 20), low, high);
      if (boxes_ == 1) root_multipliers_ = box.multipliers;
      if (box.depth == 0 && turn == 0) warm_start(box);
      value = reduce(box, low, high);
      if (value >= -cut_) return true;
      box.bound = std::max(box.bound, ratio_ + value / power(low));
      if (status_ != Status::Optimal) return false;
      std::vector<char> keep(box.id.size());
      for (std::size_t e = 0; e < keep.size(); ++e) keep[e] = reduced_[e] + value < -cut_;
      const std::size_t size = box.id.size();
      const int open = box.open();
      if (!fold(box, keep)) return true;
      if (box.open() == 0) return settle(box);
      const bool shrunk = box.id.size() < 0.8 * static_cast<double>(size) || box.open() < open;
      if (!shrunk && ratio_ == before) break;
    }
    if (!tighten(box)) return true;
    if (box.open() == 0) return settle(box);
    macs_range(box, &low, &high);
    value = reduce(box, low, high);
    if (value >= -cut_) return true;
    box.bound = std::max(box.bound, ratio_ + value / power(low));
    if (curved() && ratio_ < 0.0 && split_macs(box, low, high, value, stack)) return true;
    if (!box.tails.empty()) {
      split_depth(box, value, power(low), stack);
      return true;
    }
    const double choices = box.choices();
    if (box.depth == 0 && choices > kHard && !box.glanced) {
      box.glanced = true;
      const double before = ratio_;
      enumerate(box, value, power(low), kGlance, kGlanced);
      if (status_ != Status::Optimal) return false;
      if (ratio_ < before) return explore(box, stack);
    }
    if (choices <= kEnumerated) {
      if (enumerate(box, value, power(low), 1.0, kLeaves)) return true;
      if (status_ != Status::Optimal) return false;
      value = reduce(box, low, high);  // u may have fallen
      if (value >= -cut_) return true;
      box.bound = std::max(box.bound, ratio_ + value / power(low));
    }
    if (box.depth == 0 && rows_ > 1 && !box.together) {
      box.together = true;
      const std::size_t size = box.id.size();
      if (!tighten_whole(box)) return true;
      if (tight_ || box.id.size() < size) return explore(box, stack);
    }
    branch(box, value, power(low), stack);
    return true;
  }

  // A box with a single choice.
  bool settle(const Box &box) {
    offer(box.choice);
    return true;
  }

  // Split the interval of F where the secant's error is a good part of what is missing.
  bool split_macs(const Box &box, double low, double high, double value,
                  std::vector<Box> &stack) const {
    if (high - low <= 4 * kTolerance * span_) return false;
    const double p = program_.power;
    const double slope = (std::pow(high, p) - std::pow(low, p)) / (high - low);
    const double worst = std::pow(slope / p, 1.0 / (p - 1.0));
    const double error =
        -ratio_ * (std::pow(worst, p) - std::pow(low, p) - slope * (worst - low));
    if (error <= 0.25 * -value) return false;
    const double middle = 0.5 * (low + high);
    Box lower = box, upper = box;
    ++lower.depth;
    ++upper.depth;
    // with the tolerance of a row, so that rounding leaves no gap between them
    lower.bounds[user_rows_] = (middle - fixed_macs_) / span_ + kTolerance;
    upper.bounds[user_rows_ + 1] = -(middle - fixed_macs_) / span_ + kTolerance;
    if (last_macs_ > middle) std::swap(lower, upper);
    stack.push_back(std::move(upper));
    stack.push_back(std::move(lower));
    return true;
  }

  // A child for every depth of a stage, the most promising on top of the stack. Each is a whole
  // program without the stage, so it counts as one; it starts with this box's multipliers.
  void split_depth(const Box &box, double value, double least_power, std::vector<Box> &stack) {
    const Tail tail = box.tails.front();
    reduced_ = priced_;
    reduce(box, tail);
    std::vector<int> order(deeper_.size());
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](int a, int b) { return deeper_[a] > deeper_[b]; });
    for (int depth : order) {
      if (value + deeper_[depth] >= -cut_) continue;
      Box child = box;
      child.bound = std::max(box.bound, ratio_ + (value + deeper_[depth]) / least_power);
      std::vector<char> keep(box.id.size(), 1);
      const int end = tail.begin + depth;
      if (end > tail.begin) keep[box.start[end] - 1] = 0;
      if (end < tail.end)
        std::fill(keep.begin() + box.start[end], keep.begin() + box.start[end + 1] - 1, 0);
      if (fold(child, keep)) stack.push_back(std::move(child));
    }
  }

  double spread(const Box &box, int q) const {
    double widest = 0.0;
    for (int k = 0; k < rows_; ++k) {
      const double *weights = row(k);
      double low = kInfinity, high = -kInfinity;
      for (int e = box.start[q]; e < box.start[q + 1]; ++e) {
        low = std::min(low, weights[box.id[e]]);
        high = std::max(high, weights[box.id[e]]);
      }
      widest = std::max(widest, high - low);
    }
    return widest;
  }

  // The choices for some nodes with reduced costs below `slack`.
  Endings endings(const Box &box, std::vector<int> nodes, double slack) const {
    const std::size_t stride = rows_ + 1;
    std::vector<double> sums(stride, 0.0), longer;
    std::vector<int> picked, next;
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      const int q = nodes[i];
      const bool ordered = i > 0 && interchangeable(box, nodes[i - 1], q);
      longer.clear();
      next.clear();
      for (std::size_t c = 0; c * stride < sums.size(); ++c) {
        const double *own = sums.data() + c * stride;
        const auto before = picked.begin() + c * i;
        const int skipped = ordered ? place(box, nodes[i - 1], *(before + i - 1)) : 0;
        for (int e = box.start[q]; e < box.start[q + 1]; ++e) {
          if (own[0] + reduced_[e] >= slack || place(box, q, box.id[e]) < skipped) continue;
          longer.push_back(own[0] + reduced_[e]);
          for (int k = 0; k < rows_; ++k) longer.push_back(own[k + 1] + row(k)[box.id[e]]);
          next.insert(next.end(), before, before + i);
          next.push_back(box.id[e]);
        }
      }
      sums.swap(longer);
      picked.swap(next);
    }
    Endings all;
    all.nodes = std::move(nodes);
    put_in_bins(box, sums, picked, all);
    return all;
  }

  // Fill in choices by their weight in the row whose limit is dearest.
  void put_in_bins(const Box &box, const std::vector<double> &sums, const std::vector<int> &picked,
                   Endings &all) const {
    const std::size_t stride = rows_ + 1, width = all.nodes.size(), count = sums.size() / stride;
    all.bin.assign(count + 1, 0);
    if (rows_ > 0 && count > 0) {
      const auto dearest = std::max_element(box.multipliers.begin(), box.multipliers.end());
      all.row = static_cast<int>(dearest - box.multipliers.begin());
      double heaviest = all.lightest = sums[1 + all.row];
      for (std::size_t c = 0; c < count; ++c) {
        all.lightest = std::min(all.lightest, sums[c * stride + 1 + all.row]);
        heaviest = std::max(heaviest, sums[c * stride + 1 + all.row]);
      }
      if (heaviest > all.lightest) all.fineness = count / (heaviest - all.lightest);
    }
    std::vector<int> bins(count, 0);
    for (std::size_t c = 0; c < count; ++c) {
      if (rows_ > 0) bins[c] = all.bin_of(sums[c * stride + 1 + all.row]);
      ++all.bin[bins[c] + 1];
    }
    std::partial_sum(all.bin.begin(), all.bin.end(), all.bin.begin());
    std::vector<int> next_of(all.bin.begin(), all.bin.end());
    all.sums.resize(sums.size());
    all.picked.resize(picked.size());
    for (std::size_t c = 0; c < count; ++c) {
      const std::size_t to = next_of[bins[c]]++;
      std::copy_n(sums.begin() + c * stride, stride, all.sums.begin() + to * stride);
      std::copy_n(picked.begin() + c * width, width, all.picked.begin() + to * width);
    }
  }

  // The number of a candidate in its node.
  int place(const Box &box, int q, int candidate) const {
    return candidate - program_.offsets[box.node[q]];
  }

  // Whether two open nodes are twins with the same candidates left: then of the choices that
  // exchange what they take, one is enough.
  bool interchangeable(const Box &box, int one, int other) const {
    if (options_.count > 1 || program_.twin[box.node[one]] != program_.twin[box.node[other]])
      return false;
    const auto same = [&](int a, int b) { return place(box, one, a) == place(box, other, b); };
    return std::equal(box.id.begin() + box.start[one], box.id.begin() + box.start[one + 1],
                      box.id.begin() + box.start[other], box.id.begin() + box.start[other + 1],
                      same);
  }

  // Open nodes, those whose candidates differ most in weight first, twins side by side.
  std::vector<int> listed_order(const Box &box) const {
    std::vector<int> order(box.open());
    std::iota(order.begin(), order.end(), 0);
    std::vector<double> width(order.size());
    for (int q : order) width[q] = spread(box, q);
    std::sort(order.begin(), order.end(), [&](int a, int b) {
      if (width[a] != width[b]) return width[a] > width[b];
      const int first = program_.twin[box.node[a]], second = program_.twin[box.node[b]];
      return first != second ? first < second : a < b;
    });
    return order;
  }

  // The place in the order from which on nodes are taken together; its end in small boxes.
  int joined_from(const Box &box, const std::vector<int> &order) const {
    int head = box.open();
    const double choices = box.choices(), most = std::min(kEndings, std::sqrt(choices));
    if (choices <= kJoined) return head;
    for (double joined = 1.0; head > 0; --head) {
      const int q = order[head - 1];
      joined *= box.start[q + 1] - box.start[q];
      if (joined > most) break;
    }
    return head;
  }

  // Depth first through the choices of a box, cut by reduced cost and by weight: what a limit leaves
  // unused costs its multiplier. Looks at those with a bound up to a share of what may be better.
  // False where these are more than `most`, or the time came first.
  bool enumerate(const Box &box, double value, double least_power, double share,
                 std::int64_t most) {
    const int open = box.open();
    const std::vector<int> order = listed_order(box);
    const int head = joined_from(box, order);
    const Endings ends =
        endings(box, {order.begin() + head, order.end()}, share * -value - cut_);
    std::vector<std::vector<int>> lists(head);
    std::vector<char> ordered(head, 0);
    // the least and the most that the nodes which follow weigh
    std::vector<double> ahead(static_cast<std::size_t>(open + 1) * rows_, 0.0), reach = ahead;
    for (int d = open - 1; d >= 0; --d) {
      const int q = order[d];
      for (int k = 0; k < rows_; ++k) {
        double low = kInfinity, high = -kInfinity;
        for (int e = box.start[q]; e < box.start[q + 1]; ++e) {
          low = std::min(low, row(k)[box.id[e]]);
          high = std::max(high, row(k)[box.id[e]]);
        }
        ahead[d * rows_ + k] = ahead[(d + 1) * rows_ + k] + low;
        reach[d * rows_ + k] = reach[(d + 1) * rows_ + k] + high;
      }
      if (d >= head) continue;
      lists[d].resize(box.start[q + 1] - box.start[q]);
      std::iota(lists[d].begin(), lists[d].end(), box.start[q]);
      std::stable_sort(lists[d].begin(), lists[d].end(),
                       [&](int a, int b) { return reduced_[a] < reduced_[b]; });
      ordered[d] = d > 0 && interchangeable(box, order[d - 1], q);
    }
    double seen = ratio_, slack = share * -value - cut_;
    const double before = ratio_;
    most += leaves_;
    std::vector<std::size_t> at(head, 0);
    std::vector<double> sum(head + 1, 0.0), used(static_cast<std::size_t>(head + 1) * rows_);
    std::copy(box.used.begin(), box.used.end(), used.begin());
    std::vector<int> choice = box.choice;
    if (head == 0) return finish(box, ends, 0.0, used.data(), slack, choice, most);
    for (int d = 0; d >= 0;) {
      if (at[d] >= lists[d].size()) {
        if (--d >= 0) ++at[d];
        continue;
      }
      const int e = lists[d][at[d]];
      sum[d + 1] = sum[d] + reduced_[e];
      if (ratio_ != seen) {  // better than u of now means more below u of then
        seen = ratio_;
        slack = std::min(slack, -value - (before - ratio_) * least_power - cut_);
      }
      if (sum[d + 1] >= slack) {
        at[d] = lists[d].size();
        continue;
      }
      ++leaves_;
      if (leaves_ > most || out_of_time_after(16 * rows_ + 16)) return false;
      bool fits = true;
      double unused = 0.0;
      for (int k = 0; k < rows_ && fits; ++k) {
        const double weight = used[d * rows_ + k] + row(k)[box.id[e]];
        used[(d + 1) * rows_ + k] = weight;
        fits = weight + ahead[(d + 1) * rows_ + k] <= box.bounds[k] + kPrune;
        const double left = box.bounds[k] - kTolerance - weight - reach[(d + 1) * rows_ + k];
        if (left > 0.0) unused += box.multipliers[k] * left;
      }
      if (!fits || sum[d + 1] + unused >= slack) {
        ++at[d];
        continue;
      }
      choice[box.node[order[d]]] = box.id[e];
      if (d == head - 1) {
        if (!finish(box, ends, sum[head], used.data() + head * rows_, slack, choice, most))
          return false;
        ++at[d];
      } else {
        ++d;
        at[d] = ordered[d] ? at[d - 1] : 0;
      }
    }
    return true;
  }

  // Offer the choices that begin with what was chosen, whose reduced costs and weights are given.
  // False where there are too many, or the time came first.
  bool finish(const Box &box, const Endings &ends, double reduced, const double *used,
              double slack, std::vector<int> &choice, std::int64_t most) {
    const std::size_t stride = rows_ + 1, width = ends.nodes.size();
    std::size_t first = 0, last = ends.sums.size() / stride;
    if (rows_ > 0 && last > 0) {
      const double room = box.bounds[ends.row] - used[ends.row], dear = box.multipliers[ends.row];
      last = ends.bin[ends.bin_of(room + kPrune) + 1];
      if (dear > 0.0)
        first = ends.bin[ends.bin_of(room - kTolerance - (slack - reduced) / dear)];
    }
    for (std::size_t c = first; c < last; ++c) {
      if (width > 0 && (++leaves_ > most || out_of_time_after(16 * rows_ + 16))) return false;
      const double *own = ends.sums.data() + c * stride;
      double total = reduced + own[0];
      bool fits = true;
      for (int k = 0; k < rows_ && fits; ++k) {
        const double left = box.bounds[k] - used[k] - own[k + 1];
        fits = left >= -kPrune;
        total += box.multipliers[k] * std::max(0.0, left - kTolerance);
      }
      if (!fits || total >= slack) continue;
      for (std::size_t i = 0; i < width; ++i)
        choice[box.node[ends.nodes[i]]] = ends.picked[c * width + i];
      offer(choice);
    }
    return true;
  }

  // A child for every candidate of one node, the most promising on top of the stack; of a node with
  // very many, the last child holds the rest.
  void branch(const Box &box, double value, double least_power, std::vector<Box> &stack) {
    int chosen = 0;
    double highest = -1.0;
    for (int q = 0; q < box.open(); ++q) {
      double second = kInfinity;
      bool zero = false;
      for (int e = box.start[q]; e < box.start[q + 1]; ++e) {
        if (reduced_[e] > 0.0 || zero) second = std::min(second, reduced_[e]);
        zero = zero || reduced_[e] <= 0.0;
      }
      const double score = spread(box, q) / (second / -value + 0.05);
      if (score > highest) {
        highest = score;
        chosen = q;
      }
    }
    std::vector<int> order(box.start[chosen + 1] - box.start[chosen]);
    std::iota(order.begin(), order.end(), box.start[chosen]);
    std::sort(order.begin(), order.end(), [&](int a, int b) { return reduced_[a] < reduced_[b]; });
    std::vector<char> keep(box.id.size(), 1);
    std::vector<Box> children;
    for (std::size_t i = 0; i < order.size(); ++i) {
      const int e = order[i];
      const bool rest = i + 1 == kChildren && i + 1 < order.size();
      Box child = box;
      ++child.depth;
      child.bound = std::max(box.bound, ratio_ + (value + reduced_[e]) / least_power);
      std::vector<char> mine = keep;
      for (int other = box.start[chosen]; other < box.start[chosen + 1]; ++other) mine[other] = 0;
      for (std::size_t j = i; j < (rest ? order.size() : i + 1); ++j) mine[order[j]] = 1;
      if (fold(child, mine)) children.push_back(std::move(child));
      if (rest) break;
      exclude_in_twins(box, chosen, e, keep);
    }
    std::move(children.rbegin(), children.rend(), std::back_inserter(stack));
  }

  // After the child that gives `chosen` this candidate, no later child needs it in a twin node: the
  // same choice with the two nodes exchanged was in that child.
  void exclude_in_twins(const Box &box, int chosen, int e, std::vector<char> &keep) const {
    if (options_.count > 1) return;  // the others are asked for too
    const int node = box.node[chosen], place = box.id[e] - program_.offsets[node];
    for (int q = 0; q < box.open(); ++q) {
      if (q == chosen || program_.twin[box.node[q]] != program_.twin[node]) continue;
      for (int other = box.start[q]; other < box.start[q + 1]; ++other)
        if (box.id[other] - program_.offsets[box.node[q]] == place) keep[other] = 0;
    }
  }

  // ---- a first choice -------------------------------------------------------------------------

  void warm_start(const Box &box) {
    if (pool_.empty()) {
      const Box all = whole();
      std::vector<int> pick(all.open());
      for (int kind = 0; kind < 2; ++kind) {
        priced_.assign(all.id.size(), 0.0);
        for (std::size_t e = 0; e < priced_.size(); ++e) {
          if (kind == 1) priced_[e] = cost_[all.id[e]];
          for (int k = 0; kind == 0 && k < user_rows_; ++k) priced_[e] += row(k)[all.id[e]];
        }
        pick_cheapest(all, pick);
        local_search(completed(all, pick));
      }
    }
    local_search(completed(box, pick_));
  }

  // Switch one node at a time: first towards the limits, then downhill inside them.
  void local_search(std::vector<int> choice) {
    double cost = 0.0, macs = fixed_macs_;
    std::vector<double> over(user_rows_);
    for (int k = 0; k < user_rows_; ++k) over[k] = -bounds_[k];
    for (int e : choice) {
      cost += cost_[e];
      macs += macs_[e];
      for (int k = 0; k < user_rows_; ++k) over[k] += row(k)[e];
    }
    const int steps = 4 * program_.nodes() + 20;
    for (int step = 0; step < steps && looked_ < 6'000'000; ++step) {
      if (out_of_time_after(cost_.size() * (user_rows_ + 1))) break;
      looked_ += program_.candidates();
      double violation = 0.0;
      for (double o : over) violation += std::max(0.0, o);
      double best_ratio = cost / power(macs), best_score = 0.0;
      int best_node = -1, best = -1;
      for (int i = 0; i < program_.nodes(); ++i) {
        const int old = choice[i];
        // of a stage only the last node that is present can go, and only the next one come
        if (follows_[i] && choice[i - 1] == absent_of_[i - 1]) continue;
        const bool stays = follows_[i + 1] && choice[i + 1] != absent_of_[i + 1];
        for (int e = program_.offsets[i]; e < program_.offsets[i + 1]; ++e) {
          if (e == old || (stays && e == absent_of_[i])) continue;
          double after = 0.0;
          for (int k = 0; k < user_rows_; ++k)
            after += std::max(0.0, over[k] + row(k)[e] - row(k)[old]);
          if (violation > 0.0) {
            if (after >= violation - 1e-12) continue;
            const double score = (violation - after) / std::max(1e-9, cost_[e] - cost_[old]);
            if (score > best_score) {
              best_score = score;
              best_node = i;
              best = e;
            }
          } else if (after == 0.0) {
            const double ratio = (cost + cost_[e] - cost_[old]) / power(macs + macs_[e] - macs_[old]);
            if (ratio < best_ratio - 1e-12) {
              best_ratio = ratio;
              best_node = i;
              best = e;
            }
          }
        }
      }
      if (best_node < 0) break;
      const int old = choice[best_node];
      cost += cost_[best] - cost_[old];
      macs += macs_[best] - macs_[old];
      for (int k = 0; k < user_rows_; ++k) over[k] += row(k)[best] - row(k)[old];
      choice[best_node] = best;
    }
    offer(choice);
  }

  const Program &program_;
  const Options &options_;
  const std::chrono::steady_clock::time_point begin_;
  Status status_ = Status::Optimal;

  std::vector<int> active_;  // the program's rows that are looked at
  std::vector<int> absent_of_;  // per node of a stage its absent candidate, else -1
  std::vector<char> follows_;   // per node, whether the node before is of the same stage; and a 0
  std::vector<double> cost_, macs_, weights_, bounds_, surely_;
  int user_rows_ = 0, rows_ = 0;  // without and with the two rows of F
  double cost_unit_ = 1.0, macs_unit_ = 1.0, fixed_macs_ = 1.0, span_ = 1.0;
  double cut_ = 0.0;  // A - u F^p is at most minus this for a choice that is worth finding

  double ratio_ = kInfinity;  // u: the ratio to beat
  double last_macs_ = 1.0;    // F of the last relaxed choice, where a tangent is laid
  std::set<Found> pool_;
  std::set<std::vector<int>> rejected_;  // close to a bound, and found to break it
  bool tight_ = false;        // little room between the limits: the surrogate pays
  std::vector<double> share_;
  std::vector<double> root_multipliers_;
  std::int64_t boxes_ = 0, leaves_ = 0, looked_ = 0;
  std::size_t unclocked_ = 0;

  // scratch of the box at hand
  std::vector<double> packed_, linear_, priced_, reduced_;
  std::vector<double> absent_;  // prices of the absent candidates of tails
  std::vector<double> deeper_;  // per depth of a tail, what it adds to the best depth's bound
  std::vector<int> pick_;
};

}  // namespace

Result solve(const Program &program, const Options &options) {
  return Search(program, options).run();
}

}  // namespace mathnas
