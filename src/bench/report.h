// Measurements as text: CSV rows (the first nine columns are ds4's), lines for people, tables of ops. Pure functions.
#pragma once

#include <string>
#include <string_view>

#include "bench/machine.h"
#include "bench/measure.h"
#include "bench/roof.h"

namespace ds4::bench {

/// "# name: value" lines; control characters in values become spaces.
std::string csv_comments(const Facts& facts);

/// The names of the columns, and one row. A number that was not measured is empty.
std::string csv_head();
std::string csv_row(const Measurement& m, const Roof& roof);

/// The same for people: "   2048 tokens  prefill 312.0 tok/s  decode 14.10 tok/s ...".
std::string summary_line(const Measurement& m, const Roof& roof);

/// The ops of one phase, one line each, per step.
std::string ops_table(const PhaseProfile& phase, const Roof& roof);
std::string ops_csv_head();
std::string ops_csv_rows(const PhaseProfile& phase, const Roof& roof);

}  // namespace ds4::bench
