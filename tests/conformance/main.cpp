// ds4-conformance: does every op of a device agree with the reference, and with itself whatever the number of threads
// and the neighbours in the batch? With --time: how fast is it?
//
// Bounds are on differences over the root mean square of the expected output: the largest one, or with int8 activations
// their root mean square. One bound per op (dense_cases.cpp) and one per KV format (kv_bound below).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numeric>

#include "backend/cpu/create.h"
#include "base/text.h"
#include "dense_cases.h"
#ifdef DS4_CUDA
#include "fault_case.h"
#endif
#include "kv_script.h"
#include "model_case.h"
#include "synthetic_case.h"
#include "top_logits_case.h"

namespace ds4::conformance {
namespace {

struct Settings {
  std::string device = "cpu";
  std::vector<std::string> isas;  // empty: the device has none
  std::vector<std::string> only;  // parts of "op shape format ...", any of them
  int threads = 0;
  bool verbose = false;
  bool time = false;
  bool processor_time = false;
  bool fault = false;               // break the device and set it up again, in place of the ops
  bool quick = false;               // a minute's worth: small shapes, one batch size
  std::vector<std::string> models;  // check these files instead of the ops
  std::string synthetic;            // check these layers instead
};

std::vector<int> first_rows(int count) {
  std::vector<int> rows(static_cast<std::size_t>(count));
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

std::unique_ptr<Rig> make_rig(const BackendOptions& options, const Shape& shape, KvFormat format, int rows,
                              std::int64_t context) {
  return or_exit(Rig::create(options, shape, format, rows, context));
}

BackendOptions device_options(const Settings& settings, const std::string& isa, int threads, bool quality = false) {
  return {.device = settings.device, .threads = threads, .isa = isa, .quality = quality};
}

BackendOptions reference_options() {
  BackendOptions options;
  options.device = "reference";
  return options;
}

std::string device_name(const Settings& settings, const std::string& isa) {
  return isa.empty() ? settings.device : cat(settings.device, "/", isa);
}

bool wanted(const Settings& settings, const std::string& name) {
  return settings.only.empty() || std::any_of(settings.only.begin(), settings.only.end(), [&](const std::string& part) {
           return name.find(part) != std::string::npos;
         });
}

// --- ops without KV state -------------------------------------------------------------------------------------------

/// What a device may multiply with: the activations as they are, rounded to f16, or to int8 with a scale a block.
enum class Arithmetic { kExact, kHalf, kInt8 };

/// With f16 activations, on the root mean square difference: 2^-11 of each factor, and twice that through two products.
/// Q4_K adds a rounded minimum to a rounded multiple of its scale, and random blocks cancel most of one against the
/// other.
double half_bound(DType type) { return type == DType::kQ4_K ? 2e-3 : 1e-3; }

void compare(Report& report, const std::string& name, const DenseCase& c, DType type, Arithmetic arithmetic,
             const std::vector<Output>& expected, const std::vector<Output>& found) {
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const Distance d = distance(expected[i].floats, found[i].floats);
    const std::string what = cat(name, ".", expected[i].name);
    report.check(expected[i].ints == found[i].ints, what, "the same integers as the reference");
    if (arithmetic == Arithmetic::kExact) {
      report.check(d.largest <= c.bound, what, cat("difference ", d.largest, ", bound ", c.bound));
      continue;
    }
    const double bound = arithmetic == Arithmetic::kHalf ? half_bound(type) : c.int8_bound;
    report.check(d.mean <= bound, what, cat("mean difference ", d.mean, ", bound ", bound));
  }
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

/// The batch, another number of threads, and every row on its own give the same bits.
void check_reproducible(Report& report, const std::string& name, const DenseCase& c, Rig& rig, Rig& other_threads,
                        const std::vector<Output>& batch) {
  const auto check = [&](const std::vector<Output>& again, int first, const std::string& what) {
    for (std::size_t i = 0; i < batch.size(); ++i) {
      const auto at = static_cast<std::size_t>(first * batch[i].cols);
      const std::vector<float> floats(
          batch[i].floats.begin() + static_cast<std::ptrdiff_t>(std::min(at, batch[i].floats.size())),
          batch[i].floats.begin() +
              static_cast<std::ptrdiff_t>(std::min(at + again[i].floats.size(), batch[i].floats.size())));
      report.check(same_bits(floats, again[i].floats), cat(name, ".", batch[i].name), what);
    }
  };
  check(c.run(other_threads, first_rows(c.rows)), 0, "the same bits with 3 threads");
  for (int r = 0; r < c.rows && c.rows > 1; r += std::max(1, c.rows / 5))
    check(c.run(rig, {r}), r, cat("row ", r, " alone has the same bits"));
}

bool is_quantised(DType type) { return type != DType::kF32 && type != DType::kF16 && type != DType::kBF16; }

/// A device in one instruction set, exact or not, and its twin with another number of threads.
struct Candidate {
  std::string name;
  bool quality;
  std::unique_ptr<Rig> rig;
  std::unique_ptr<Rig> other_threads;  // and weights in parts, as on a machine with several memories
};

std::vector<Candidate> make_candidates(const Settings& settings, const Shape& shape, KvFormat format, int rows,
                                       std::int64_t context, bool with_quality) {
  std::vector<Candidate> candidates;
  for (const std::string& isa : settings.isas) {
    for (const bool quality : {false, true}) {
      if (quality && !with_quality) continue;
      const BackendOptions options = device_options(settings, isa, settings.threads, quality);
      BackendOptions other = options;
      other.threads = 3;
      other.memories = 2;
      candidates.push_back({cat(device_name(settings, isa), quality ? "(quality)" : ""), quality,
                            make_rig(options, shape, format, rows, context),
                            make_rig(other, shape, format, rows, context)});
    }
  }
  return candidates;
}

void run_dense(const Settings& settings, Report& report) {
  for (const Shape& shape : all_shapes()) {
    if (settings.quick && shape.published) continue;
    for (const int rows : shape.rows) {
      if (settings.quick && rows != shape.rows[1]) continue;
      const auto reference = make_rig(reference_options(), shape, KvFormat::kF32, rows, 1024);
      // Exact products are tested on the small shapes: on large ones the scalar decoders take seconds.
      const auto candidates = make_candidates(settings, shape, KvFormat::kF32, rows, 1024, !shape.published);
      for (const DType type : shape.types) {
        if (rows > 200 && type != DType::kF32 && type != DType::kQ8_0) continue;  // the reference decodes slowly
        for (const DenseCase& c : dense_cases(shape, type, rows)) {
          const std::string name = cat(c.op, " ", c.detail);
          if (!wanted(settings, name)) continue;
          const std::vector<Output> expected = c.run(*reference, first_rows(rows));
          reference->clear();
          const bool may_round =
              c.int8_bound > 0 && (settings.device == "cuda" ? type != DType::kF32 : is_quantised(type));
          const Arithmetic rounded = settings.device == "cuda" ? Arithmetic::kHalf : Arithmetic::kInt8;
          for (const Candidate& device : candidates) {
            if (device.quality && !may_round) continue;
            const std::string full = cat(device.name, " ", name);
            const std::vector<Output> found = c.run(*device.rig, first_rows(rows));
            compare(report, full, c, type, may_round && !device.quality ? rounded : Arithmetic::kExact, expected,
                    found);
            if (settings.device == "cpu")
              check_reproducible(report, full, c, *device.rig, *device.other_threads, found);
            device.rig->clear();
            device.other_threads->clear();
          }
        }
      }
    }
  }
}

// --- ops with KV state ----------------------------------------------------------------------------------------------

/// How far attention outputs may be apart. In the packed format a value on the edge of a step of FP8 or FP4 may fall to
/// the other side.
double kv_bound(KvFormat format) {
  switch (format) {
    case KvFormat::kF32: return 2e-5;
    case KvFormat::kF16: return 2e-3;
    case KvFormat::kPacked: return 5e-2;
  }
  return 0;
}

std::vector<Script> scripts_of(const Shape& shape) {
  if (shape.published)  // more compressed rows than are chosen
    return {
        {"long context", {{{0, 1}, {1, 2}}, {{0, 1}}}, 8 * shape.dims.index_topk - 3},
        // More scores than a row's selection looks at one by one, for few rows and for many, of one sequence and two.
        {"very long context", {{{0, 1}, {1, 1}}, {{0, 20}}, {{0, 9}, {1, 11}}}, 72003}};
  return {
      {"one by one", std::vector<Step>(12, Step{{0, 1}})},
      {"around 128", {{{0, 127}}, {{0, 1}}, {{0, 128}}, {{0, 129}}, {{0, 5}}}},
      {"mixed",
       {{{0, 3}, {1, 200}, {2, 1}},
        {{2, 64}, {0, 1}},
        {{0, 65}, {1, 1}, {2, 2}},
        {{1, 1}, {2, 1}, {0, 1}},
        {{0, 130}, {2, 70}}}},
      {"late", {{{0, 1}}, {{0, 2}, {1, 66}}, {{1, 1}, {0, 64}}}, 1021},
  };
}

/// The same tokens in one portion per sequence.
Script in_one_go(const Script& script) {
  std::map<int, int> rows;
  for (const Step& step : script.steps)
    for (const Portion& p : step) rows[p.sequence] += p.rows;
  Script whole{script.name + ", whole", {}, script.start};
  for (const auto& [sequence, count] : rows) whole.steps.push_back({{sequence, count}});
  return whole;
}

/// The same with activations rounded to f16: no value is equal, in the packed format some fall one step away.
void compare_rounded_kv(Report& report, const std::string& name, const KvResult& expected, const KvResult& found,
                        KvFormat format) {
  const bool packed = format == KvFormat::kPacked;
  double worst = 0;
  std::int64_t missed = 0;
  std::int64_t chosen = 0;
  for (const auto& [key, token] : expected.tokens) {
    const TokenResult& other = found.tokens.at(key);
    worst = std::max(worst, distance(token.heads, other.heads).mean);
    chosen += static_cast<std::int64_t>(token.selected.size());
    std::vector<std::int32_t> common;
    std::set_intersection(token.selected.begin(), token.selected.end(), other.selected.begin(), other.selected.end(),
                          std::back_inserter(common));
    missed += static_cast<std::int64_t>(std::max(token.selected.size(), other.selected.size()) - common.size());
  }
  const auto check = [&](const char* what, double value, double bound) {
    report.check(value <= bound, cat(what, " ", name), cat("mean difference ", value, ", bound ", bound));
  };
  check("sparse_attention", worst, packed ? 1e-2 : 2e-3);
  if (chosen > 0)
    report.check(missed * 50 <= chosen, cat("index_topk ", name),
                 cat(missed, " of ", chosen, " rows are others, bound 2 %"));
  for (const auto& [sequence, rows] : expected.rows) {
    check("kv rows", distance(rows, found.rows.at(sequence)).mean, packed ? 1e-2 : 2e-3);
    check("compressor states", distance(expected.states.at(sequence), found.states.at(sequence)).mean,
          half_bound(DType::kF16));
  }
}

void compare_kv(Report& report, const std::string& name, const KvResult& expected, const KvResult& found,
                KvFormat format) {
  double worst = 0;
  std::int64_t missed = 0;
  std::int64_t chosen = 0;
  for (const auto& [key, token] : expected.tokens) {
    const TokenResult& other = found.tokens.at(key);
    worst = std::max(worst, distance(token.heads, other.heads).largest);
    chosen += static_cast<std::int64_t>(token.selected.size());
    std::vector<std::int32_t> common;
    std::set_intersection(token.selected.begin(), token.selected.end(), other.selected.begin(), other.selected.end(),
                          std::back_inserter(common));
    missed += static_cast<std::int64_t>(std::max(token.selected.size(), other.selected.size()) - common.size());
  }
  report.check(worst <= kv_bound(format), cat("sparse_attention ", name),
               cat("difference ", worst, ", bound ", kv_bound(format)));
  if (chosen > 0)  // near-ties may fall either way
    report.check(missed * 200 <= chosen, cat("index_topk ", name),
                 cat(missed, " of ", chosen, " rows are others, bound 0.5 %"));
  for (const auto& [sequence, rows] : expected.rows) {
    // Most values are equal; those beside a step of the format may be one step apart.
    const std::vector<float>& other = found.rows.at(sequence);
    std::int64_t apart = 0;
    std::string first;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (std::fabs(rows[i] - other[i]) <= 1e-4F * (1.0F + std::fabs(rows[i]))) continue;
      if (apart++ == 0) first = cat("; the first is ", i, ", expected ", rows[i], ", found ", other[i]);
    }
    const auto limit = format == KvFormat::kF32 ? 0 : static_cast<std::int64_t>(rows.size()) / 500;
    report.check(apart <= limit, cat("kv rows ", name),
                 cat(apart, " of ", rows.size(), " values differ, bound ", limit, first));
    const double states = distance(expected.states.at(sequence), found.states.at(sequence)).largest;
    report.check(states <= 2e-5, cat("compressor states ", name), cat("difference ", states, ", bound 2e-05"));
  }
}

bool same_kv(const KvResult& a, const KvResult& b) {
  for (const auto& [key, token] : a.tokens) {
    const TokenResult& other = b.tokens.at(key);
    if (!same_bits(token.heads, other.heads) || token.selected != other.selected) return false;
  }
  return true;
}

void run_kv(const Settings& settings, Report& report) {
  for (const Shape& shape : all_shapes()) {
    if (settings.quick && shape.name != "uneven" && shape.name != "small-odd") continue;
    const KvWeights weights(shape, shape.published ? DType::kF16 : DType::kF32);
    for (const KvFormat format : {KvFormat::kF32, KvFormat::kF16, KvFormat::kPacked}) {
      // A card is tried with long contexts; activations are rounded there, since these weights are f16.
      const bool real = shape.published && settings.device == "cuda";
      const int rows = !shape.published ? 600 : real ? 20 : 4;
      const std::int64_t context = real ? 73728 : 8192;
      const auto reference = make_rig(reference_options(), shape, format, rows, context);
      const auto candidates = make_candidates(settings, shape, format, rows, context, real);
      for (const Script& script : scripts_of(shape)) {
        if (settings.quick && script.name != "mixed") continue;
        for (const int ratio : {0, 4, 128}) {
          const std::string name = cat(shape.name, " ", kv_format_name(format), " ratio ", ratio, " ", script.name);
          if (!wanted(settings, cat("kv ", name)) || script.start >= context) continue;
          const KvResult expected = run_script(*reference, weights, ratio, script, nullptr);
          reference->clear();
          for (const Candidate& device : candidates) {
            const auto run = [&](Rig& rig, const Script& what, const KvResult* forced) {
              KvResult result = run_script(rig, weights, ratio, what, forced);
              rig.clear();
              return result;
            };
            const std::string full = cat(device.name, " ", name);
            const KvResult found = run(*device.rig, script, &expected);
            if (real && !device.quality) compare_rounded_kv(report, full, expected, found, format);
            else compare_kv(report, full, expected, found, format);
            if (settings.device != "cpu") continue;
            const KvResult pieces = run(*device.rig, script, nullptr);
            const KvResult threads = run(*device.other_threads, script, nullptr);
            report.check(same_kv(pieces, threads) && pieces.bytes == threads.bytes, full,
                         "the same bits with 3 threads");
            report.check(same_kv(pieces, run(*device.rig, in_one_go(script), nullptr)), full,
                         "the same bits in one go");
          }
        }
      }
    }
  }
}

// --- timing ---------------------------------------------------------------------------------------------------------

void time_dense(const Settings& settings, const std::string& isa) {
  const Shape shape = all_shapes().back();
  std::printf("%-18s %-28s %10s %9s %9s\n", device_name(settings, isa).c_str(), "", "ms", "GB/s", "GFLOP/s");
  for (const int rows : {1, 128}) {
    const auto rig = make_rig(device_options(settings, isa, settings.threads), shape, KvFormat::kF32, rows, 1024);
    if (settings.processor_time) rig->use_processor_time();
    for (const DType type : shape.types) {
      for (const DenseCase& c : dense_cases(shape, type, rows)) {
        if (!wanted(settings, cat(c.op, " ", c.detail))) continue;
        const std::vector<int> all = first_rows(rows);
        double best = std::numeric_limits<double>::infinity();
        for (int i = 0; i < 5; ++i) {
          c.run(*rig, all);
          best = std::min(best, rig->seconds());
        }
        std::printf("%-18s %-28s %10.3f %9.2f %9.1f\n", c.op.c_str(), c.detail.c_str(), best * 1e3,
                    c.weight_bytes / best * 1e-9, 2e-9 * c.macs_per_row * rows / best);
        rig->clear();
      }
    }
  }
}

void time_kv(const Settings& settings, const std::string& isa) {
  const Shape shape = all_shapes().back();
  const KvWeights weights(shape, DType::kF16);
  std::printf("%-44s %10s %10s %10s %10s ms\n", "", "window_kv", "compress", "index_topk", "attention");
  for (const KvFormat format : {KvFormat::kF16, KvFormat::kPacked})
    for (const std::int64_t start : {std::int64_t{2000}, std::int64_t{32000}})
      for (const int ratio : {0, 4, 128})
        for (const int rows : {1, 128}) {
          const std::string name = cat(device_name(settings, isa), " ", kv_format_name(format), " ratio ", ratio,
                                       " at ", start, " rows ", rows);
          if (!wanted(settings, cat("kv ", name))) continue;
          const auto rig = make_rig(device_options(settings, isa, settings.threads), shape, format, rows, start + 1024);
          if (settings.processor_time) rig->use_processor_time();
          const StepTimes t = time_step(*rig, weights, ratio, start, rows, rows == 1 ? 5 : 2);
          std::printf("%-44s %10.3f %10.3f %10.3f %10.3f\n", name.c_str(), t.window_kv * 1e3, t.compress * 1e3,
                      t.index_topk * 1e3, t.attention * 1e3);
        }
}

// --- the largest logits ----------------------------------------------------------------------------------------------

void run_top_logits(const Settings& settings, Report& report) {
  Shape shape = all_shapes().front();
  shape.dims.vocab = 129280;
  for (const int rows : {1, 3, 16, 17}) {
    if (!wanted(settings, cat("top_logits rows ", rows))) continue;
    for (const Candidate& device : make_candidates(settings, shape, KvFormat::kF32, rows, 1024, false))
      check_top_logits(*device.rig, rows, device.name, report);
  }
}

int finish(const Report& report) {
  std::printf("%d checks, %d failures\n", report.checks(), report.failures());
  return report.failures() == 0 ? 0 : 1;
}

int check_fault([[maybe_unused]] const Settings& settings, [[maybe_unused]] Report& report) {
#ifdef DS4_CUDA
  if (settings.device.starts_with("cuda")) {
    run_fault(device_options(settings, "", settings.threads), report);
    return finish(report);
  }
#endif
  std::fprintf(stderr, "ds4-conformance: --fault: expected a build with CUDA and --device cuda or cuda:N\n");
  return 2;
}

int usage() {
  std::fprintf(
      stderr,
      "usage: ds4-conformance [--device NAME] [--isa NAME] [--threads N] [--only TEXT] [--quick] [--time] "
      "[--processor-time]\n"
      "                       [--model FILE] [--synthetic MODEL:N] [--fault] [--verbose]\n"
      "  --model FILE  a whole model on the device against the exact cpu path, in place of the ops\n"
      "  --synthetic   N layers with random weights (flash:4): steps alone, in batches and again, in place of the ops\n"
      "  --fault       a card is made to fail: is it noticed, and does it work again? In place of the ops\n"
      "  --only TEXT   cases whose name contains TEXT (\"kv \" and the layer, or \"op shape type rows n\"); "
      "may be repeated\n");
  return 2;
}

int run(int argc, char** argv) {
  Settings settings;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const bool has_value = i + 1 < argc;
    if (flag == "--verbose") settings.verbose = true;
    else if (flag == "--processor-time") settings.processor_time = true;
    else if (flag == "--fault") settings.fault = true;
    else if (flag == "--quick") settings.quick = true;
    else if (flag == "--time") settings.time = true;
    else if (flag == "--device" && has_value) settings.device = argv[++i];
    else if (flag == "--isa" && has_value) settings.isas.push_back(argv[++i]);
    else if (flag == "--model" && has_value) settings.models.push_back(argv[++i]);
    else if (flag == "--synthetic" && has_value) settings.synthetic = argv[++i];
    else if (flag == "--only" && has_value) settings.only.emplace_back(argv[++i]);
    else if (flag == "--threads" && has_value) settings.threads = std::atoi(argv[++i]);
    else return usage();
  }
  if (settings.isas.empty()) settings.isas = settings.device == "cpu" ? cpu_isa_names() : std::vector<std::string>{""};
  if (settings.time) {
    for (const std::string& isa : settings.isas) {
      time_dense(settings, isa);
      time_kv(settings, isa);
    }
    return 0;
  }
  Report report(settings.verbose);
  if (settings.fault) return check_fault(settings, report);
  for (const std::string& model : settings.models)
    for (const std::string& isa : settings.isas)
      run_model(model, device_options(settings, isa, settings.threads), settings.quick, report);
  if (!settings.synthetic.empty())
    run_synthetic(settings.synthetic, device_options(settings, settings.isas.front(), settings.threads), report);
  else if (settings.models.empty()) {
    run_dense(settings, report);
    run_kv(settings, report);
    run_top_logits(settings, report);
  }
  return finish(report);
}

}  // namespace
}  // namespace ds4::conformance

int main(int argc, char** argv) { return ds4::conformance::run(argc, argv); }
