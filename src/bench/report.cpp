#include "bench/report.h"

#include <algorithm>
#include <cstdio>

#include "base/text.h"

namespace ds4::bench {

namespace {

/// printf's %.*f, in the C locale whatever the process has.
std::string fixed(double value, int digits) {
  char text[64];
  const int size = std::snprintf(text, sizeof text, "%.*f", digits, value);
  return {text, static_cast<std::size_t>(std::clamp(size, 0, 63))};
}

std::string padded(std::string_view text, std::size_t width) {
  return std::string(width > text.size() ? width - text.size() : 0, ' ') + std::string(text);
}

std::string joined(const std::vector<std::string>& cells) {
  std::string row;
  for (const std::string& cell : cells) row += cat(&cell == cells.data() ? "" : ",", cell);
  return row + "\n";
}

/// Tokens per second, from seconds; "" without samples.
std::string rate(double tokens, const Samples& seconds, double (Samples::*pick)() const, int digits) {
  return seconds.empty() ? "" : fixed(tokens / (seconds.*pick)(), digits);
}

/// The first token may wait for what a device does once; the steady speed leaves it out.
double steady_seconds(const Measurement& m) { return m.gen_seconds.median() - m.gen_first_seconds.median(); }

/// Weights and KV rows: what a step has to fetch from memory. Activations stay in caches.
Cost fetched(const Measurement& m) {
  Cost cost = m.gen_cost;
  cost.activation_bytes = 0;
  return cost;
}

double step_seconds(const Measurement& m) { return m.gen_seconds.median() / static_cast<double>(m.gen_tokens); }

}  // namespace

std::string csv_comments(const Facts& facts) {
  std::string out;
  for (const auto& [name, value] : facts) {
    std::string line = value;
    std::ranges::replace_if(line, [](char c) { return static_cast<unsigned char>(c) < ' '; }, ' ');
    out += cat("# ", name, ": ", line, "\n");
  }
  return out;
}

std::string csv_head() {
  return "ctx_tokens,prefill_tokens,prefill_tps,gen_tokens,gen_tps,kvcache_bytes,gen_first_ms,gen_steady_tokens,"
         "gen_steady_tps,sequences,filled,repeat,prefill_tps_min,prefill_tps_max,gen_tps_min,gen_tps_max,"
         "gen_step_bytes,gen_gbps,gen_roof_pct\n";
}

std::string csv_row(const Measurement& m, const Roof& roof) {
  const auto prefill = static_cast<double>(m.frontier.prefill);
  const auto decoded = static_cast<double>(m.gen_tokens * m.sequences);
  const bool has_gen = !m.gen_seconds.empty();
  const bool steady = has_gen && m.gen_tokens > 1;
  const double gbps = has_gen ? fetched(m).bytes() / step_seconds(m) * 1e-9 : 0;
  const bool has_roof = has_gen && roof.known();
  return joined({
      cat(m.frontier.context),
      cat(m.frontier.prefill),
      rate(prefill, m.prefill_seconds, &Samples::median, 2),
      cat(m.gen_tokens),
      rate(decoded, m.gen_seconds, &Samples::median, 3),
      cat(m.kv_bytes),
      has_gen ? fixed(m.gen_first_seconds.median() * 1e3, 3) : "",
      cat(m.gen_tokens > 0 ? (m.gen_tokens - 1) * m.sequences : 0),
      steady ? fixed(static_cast<double>((m.gen_tokens - 1) * m.sequences) / steady_seconds(m), 3) : "",
      cat(m.sequences),
      cat(m.frontier.filled ? m.frontier.context - m.frontier.prefill : 0),
      cat(std::max(m.prefill_seconds.count(), m.gen_seconds.count())),
      rate(prefill, m.prefill_seconds, &Samples::most, 2),
      rate(prefill, m.prefill_seconds, &Samples::least, 2),
      rate(decoded, m.gen_seconds, &Samples::most, 3),
      rate(decoded, m.gen_seconds, &Samples::least, 3),
      has_gen ? fixed(fetched(m).bytes(), 0) : "",
      has_gen ? fixed(gbps, 2) : "",
      has_roof ? fixed(100 * roof.seconds(fetched(m)) / step_seconds(m), 1) : "",
  });
}

std::string summary_line(const Measurement& m, const Roof& roof) {
  std::string line = cat(padded(cat(m.frontier.context), 8), " tokens");
  const auto spread = [](const Samples& s) {
    return s.count() > 1 ? cat(" (+-", fixed(50 * (s.most() - s.least()) / s.median(), 1), " %)") : std::string();
  };
  if (!m.prefill_seconds.empty())
    line += cat("  prefill of ", m.frontier.prefill, ": ",
                rate(static_cast<double>(m.frontier.prefill), m.prefill_seconds, &Samples::median, 1), " tok/s",
                spread(m.prefill_seconds));
  if (!m.gen_seconds.empty()) {
    line += cat("  decode", m.sequences > 1 ? cat(" of ", m.sequences, " sequences") : "", ": ",
                rate(static_cast<double>(m.gen_tokens * m.sequences), m.gen_seconds, &Samples::median, 2), " tok/s",
                spread(m.gen_seconds), ", ", fixed(fetched(m).bytes() / step_seconds(m) * 1e-9, 1), " GB/s");
    if (roof.known()) line += cat(", ", fixed(100 * roof.seconds(fetched(m)) / step_seconds(m), 1), " % of roof");
  }
  return line + cat("  KV ", human_bytes(m.kv_bytes));
}

namespace {

struct OpRow {
  std::string name;
  double calls, seconds, share;  // of a step
  Cost cost;
};

/// Per step; the last two rows are what is between the ops, and the whole.
std::vector<OpRow> op_rows(const PhaseProfile& phase) {
  const double steps = static_cast<double>(phase.steps);
  std::vector<OpRow> rows;
  double measured = 0;
  const auto add = [&](std::string name, double calls, double seconds, Cost cost) {
    for (double* part :
         {&cost.weight_bytes, &cost.kv_bytes, &cost.activation_bytes, &cost.quantised_flops, &cost.float_flops})
      *part /= steps;
    rows.push_back({std::move(name), calls / steps, seconds / steps, seconds / phase.seconds, cost});
  };
  for (std::size_t i = 0; i < phase.ops.size(); ++i) {
    const OpTotals& op = phase.ops[i];
    if (op.calls == 0) continue;
    add(std::string(op_name(static_cast<Op>(i))), static_cast<double>(op.calls), op.seconds, op.cost);
    measured += op.seconds;
  }
  add("(between)", 0, phase.seconds - measured, {});
  add("step", 0, phase.seconds, total_cost(phase.ops));
  return rows;
}

double gbps(const OpRow& row) { return row.seconds > 0 ? row.cost.bytes() / row.seconds * 1e-9 : 0; }
double tflops(const OpRow& row) { return row.seconds > 0 ? row.cost.flops() / row.seconds * 1e-12 : 0; }
double roof_percent(const OpRow& row, const Roof& roof) {
  return roof.known() && row.seconds > 0 ? 100 * roof.seconds(row.cost) / row.seconds : 0;
}

}  // namespace

std::string ops_table(const PhaseProfile& phase, const Roof& roof) {
  std::string out = cat(phase.name, " of ", phase.rows, phase.rows == 1 ? " row" : " rows", " at ", phase.context,
                        " tokens, per step\n",
                        "op                  calls        ms      %      MB     GB/s   GFLOP  TFLOP/s  % roof\n");
  for (const OpRow& row : op_rows(phase)) {
    std::string name = row.name;
    name.resize(std::max<std::size_t>(name.size(), 17), ' ');
    out += cat(name, padded(row.calls > 0 ? fixed(row.calls, 0) : "", 8), padded(fixed(row.seconds * 1e3, 3), 10),
               padded(fixed(100 * row.share, 1), 7));
    if (row.cost.bytes() > 0) {
      out += cat(padded(fixed(row.cost.bytes() * 1e-6, 1), 8), padded(fixed(gbps(row), 1), 9),
                 padded(fixed(row.cost.flops() * 1e-9, 2), 8), padded(fixed(tflops(row), 3), 9));
      if (roof.known()) out += padded(fixed(roof_percent(row, roof), 1), 8);
    }
    out += "\n";
  }
  return out;
}

std::string ops_csv_head() {
  return "phase,ctx_tokens,rows,op,calls,ms,share_pct,weight_bytes,kv_bytes,activation_bytes,flops,gbps,tflops,roof_"
         "pct\n";
}

std::string ops_csv_rows(const PhaseProfile& phase, const Roof& roof) {
  std::string out;
  for (const OpRow& row : op_rows(phase)) {
    out += joined({std::string(phase.name), cat(phase.context), cat(phase.rows), row.name, fixed(row.calls, 1),
                   fixed(row.seconds * 1e3, 4), fixed(100 * row.share, 2), fixed(row.cost.weight_bytes, 0),
                   fixed(row.cost.kv_bytes, 0), fixed(row.cost.activation_bytes, 0), fixed(row.cost.flops(), 0),
                   fixed(gbps(row), 3), fixed(tflops(row), 4), roof.known() ? fixed(roof_percent(row, roof), 1) : ""});
  }
  return out;
}

}  // namespace ds4::bench
