// The Python module: a prepared program, and its solution without the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <utility>
#include <vector>

#include "search.hpp"

namespace nb = nanobind;
using Doubles = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Integers = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

namespace {

std::vector<double> copied(const Doubles &array) {
  return {array.data(), array.data() + array.size()};
}

bool finite(const std::vector<double> &values) {
  return std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); });
}

// Whether the numbers make a program: what the search relies on, so that no input leads it astray.
bool sound(const mathnas::Program &program, std::size_t rows, std::size_t columns) {
  const std::vector<int> &starts = program.offsets;
  if (starts.size() < 2 || starts.front() != 0) return false;
  for (std::size_t i = 1; i < starts.size(); ++i)
    if (starts[i] <= starts[i - 1]) return false;
  const auto n = static_cast<std::size_t>(starts.back());
  if (program.cost.size() != n || program.macs.size() != n || (rows > 0 && columns != n) ||
      program.twin.size() + 1 != starts.size())
    return false;
  if (!finite(program.cost) || !finite(program.macs) || !finite(program.weights) ||
      !std::isfinite(program.fixed_macs) || !(program.cost_step >= 0.0))
    return false;
  if (!(program.power >= 0.0 && program.power <= 1.0)) return false;
  std::size_t next = 0;  // the first node behind the stages so far
  for (const std::vector<int> &absent : program.stages) {
    if (absent.empty()) return false;
    while (next + 1 < starts.size() && starts[next + 1] <= absent.front()) ++next;
    for (int candidate : absent) {
      if (next + 1 >= starts.size() || candidate < starts[next] || candidate >= starts[next + 1] ||
          starts[next + 1] - starts[next] < 2)
        return false;
      ++next;
    }
  }
  double least = program.fixed_macs;
  for (std::size_t i = 1; i < starts.size(); ++i)
    least += *std::min_element(program.macs.begin() + starts[i - 1],
                               program.macs.begin() + starts[i]);
  return program.power == 0.0 || least > 0.0;
}

mathnas::Program prepared(const Integers &offsets, const Doubles &cost, const Doubles &macs,
                          const Matrix &weights, const Integers &twins,
                          std::vector<std::vector<int>> stages, double cost_step,
                          double fixed_macs, double power) {
  constexpr std::int64_t most = std::numeric_limits<int>::max();
  const auto fits = [](std::int64_t value) { return value >= 0 && value <= most; };
  if (!std::all_of(offsets.data(), offsets.data() + offsets.size(), fits) ||
      !std::all_of(twins.data(), twins.data() + twins.size(), fits))
    throw std::invalid_argument("a program has at most 2^31 - 1 candidates");
  mathnas::Program program;
  program.offsets.assign(offsets.data(), offsets.data() + offsets.size());
  program.cost = copied(cost);
  program.macs = copied(macs);
  program.weights.assign(weights.data(), weights.data() + weights.size());
  program.twin.assign(twins.data(), twins.data() + twins.size());
  program.stages = std::move(stages);
  program.rows = static_cast<int>(weights.shape(0));
  program.cost_step = cost_step;
  program.fixed_macs = fixed_macs;
  program.power = power;
  if (!sound(program, weights.shape(0), weights.shape(1)))
    throw std::invalid_argument("the arrays do not make a program");
  return program;
}

// (status, choices, bound, multipliers, boxes, leaves); status 0 proven, 1 time limit.
// Bounds belong to a solve, as a front moves one of them from solve to solve.
nb::tuple solve(const mathnas::Program &program, std::size_t count, double seconds,
                const Doubles &bounds, const Doubles &surely, std::vector<double> multipliers,
                nb::callable holds) {
  mathnas::Options options;
  options.bounds = copied(bounds);
  options.surely = copied(surely);
  options.multipliers = std::move(multipliers);
  options.count = count;
  options.seconds = seconds;
  const auto rows = static_cast<std::size_t>(program.rows);
  const auto known = [](double value) { return !std::isnan(value); };
  const auto usable = [](double value) { return value >= 0.0 && std::isfinite(value); };
  if (options.bounds.size() != rows || options.surely.size() != rows ||
      !std::all_of(options.bounds.begin(), options.bounds.end(), known) ||
      !std::all_of(options.surely.begin(), options.surely.end(), known))
    throw std::invalid_argument("there is one bound a row");
  if (options.multipliers.size() != rows ||
      !std::all_of(options.multipliers.begin(), options.multipliers.end(), usable))
    options.multipliers.clear();  // only a hint
  if (count < 1 || std::isnan(seconds))
    throw std::invalid_argument("at least one choice is asked for, in a number of seconds");
  bool failed = false;  // a Python exception is set: stop, and raise it
  options.holds = [&](const std::vector<int> &choice) {
    nb::gil_scoped_acquire gil;
    if (failed) return false;
    try {
      return nb::cast<bool>(holds(nb::cast(choice)));
    } catch (nb::python_error &error) {
      error.restore();
      failed = true;
      return false;
    }
  };
  auto asked = std::chrono::steady_clock::now();
  options.interrupted = [&] {
    // taking the GIL is dear; twenty times a second is soon enough for Ctrl-C
    const auto now = std::chrono::steady_clock::now();
    if (failed) return true;
    if (now - asked < std::chrono::milliseconds(50)) return false;
    asked = now;
    nb::gil_scoped_acquire gil;
    failed = failed || PyErr_CheckSignals() != 0;
    return failed;
  };
  mathnas::Result result;
  {
    nb::gil_scoped_release released;
    result = mathnas::solve(program, options);
  }
  if (failed) throw nb::python_error();
  nb::list choices;
  for (const std::vector<int> &choice : result.found) choices.append(nb::cast(choice));
  const int status = result.status == mathnas::Status::Optimal ? 0 : 1;
  return nb::make_tuple(status, choices, result.bound, result.multipliers, result.boxes,
                        result.leaves);
}

}  // namespace

NB_MODULE(_kernel, module) {
  module.doc() = "Exact search over block choices; mathnas.search.compiled wraps it.";
  nb::class_<mathnas::Program>(module, "Program")
      .def(
          "__init__",
          [](mathnas::Program *self, const Integers &offsets, const Doubles &cost,
             const Doubles &macs, const Matrix &weights, const Integers &twins,
             std::vector<std::vector<int>> stages, double cost_step, double fixed_macs,
             double power) {
            new (self) mathnas::Program(prepared(offsets, cost, macs, weights, twins,
                                                 std::move(stages), cost_step, fixed_macs, power));
          },
          nb::arg("offsets"), nb::arg("cost"), nb::arg("macs"), nb::arg("weights"),
          nb::arg("twins"), nb::arg("stages"), nb::arg("cost_step"), nb::arg("fixed_macs"), nb::arg("power"))
      .def("solve", &solve, nb::arg("count"), nb::arg("seconds"), nb::arg("bounds"),
           nb::arg("surely"), nb::arg("multipliers"), nb::arg("holds"));
}
