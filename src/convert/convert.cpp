#include "convert/convert.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>

#include "base/mapped_file.h"
#include "base/text.h"
#include "convert/content_hash.h"
#include "convert/jobs.h"
#include "convert/journal.h"
#include "convert/model_input.h"
#include "convert/tensor_copy.h"
#include "gguf/writer.h"
#include "quant/codec.h"
#include "quant/imatrix.h"

namespace ds4 {
namespace {

namespace fs = std::filesystem;

Error usage(std::string message) { return Error{ErrorCode::kUsage, std::move(message)}; }

class Conversion {
 public:
  Conversion(const ConvertOptions& options, const ConvertEvents& events) : options_(options), events_(events) {}

  Result<ConvertReport> run() {
    DS4_RETURN_IF_ERROR(check_output());
    DS4_RETURN_IF_ERROR(plan());
    DS4_RETURN_IF_ERROR(declare());
    DS4_RETURN_IF_ERROR(open_output());
    const Status copied = copy_tensors();
    if (!copied.ok()) {
      const bool worth_keeping = copied.error().code == ErrorCode::kCancelled || copied.error().code == ErrorCode::kIo;
      return worth_keeping ? keep(copied.error()) : drop(copied.error());
    }
    DS4_RETURN_IF_ERROR(writer_->finish());
    DS4_RETURN_IF_ERROR(journal_->remove());
    return report();
  }

  Result<std::vector<PlanLine>> describe() {
    DS4_RETURN_IF_ERROR(plan());
    DS4_RETURN_IF_ERROR(declare());
    return plan_lines();
  }

 private:
  void note(std::string_view text) const {
    if (events_.note) events_.note(text);
  }

  Status check_output() const {
    std::error_code ignored;
    if (fs::is_directory(options_.output, ignored))
      return usage(cat(escaped(options_.output, 4096), ": expected the name of a file to write, found a folder"));
    if (!fs::exists(options_.output, ignored)) return {};
    if (fs::equivalent(options_.output, options_.input, ignored))
      return usage(cat(escaped(options_.output, 4096), ": the input cannot be replaced while it is read"));
    if (!options_.overwrite)
      return usage(cat(escaped(options_.output, 4096), ": the file exists; give another name, or allow overwriting"));
    return {};
  }

  Status plan() {
    DS4_ASSIGN_OR_RETURN(input_, open_model_input(options_.input, [&](std::string_view text) { note(text); }));
    DS4_ASSIGN_OR_RETURN(recipe_, Recipe::make(options_.recipe, input_->layers()));
    std::vector<std::string> matrices;
    for (const InputTensor& tensor : input_->tensors())
      if (tensor.kind == TensorKind::kMatrix) matrices.push_back(tensor.name);
    if (const auto unused = recipe_->unused_override(matrices))
      return usage(cat("the pattern ", escaped(*unused), " matches none of the ", matrices.size(), " matrices"));
    if (!options_.imatrix.empty()) {
      DS4_ASSIGN_OR_RETURN(imatrix_, Imatrix::open(options_.imatrix));
    }
    for (const InputTensor& tensor : input_->tensors()) {
      DS4_ASSIGN_OR_RETURN(const DType type, type_of(tensor));
      DS4_ASSIGN_OR_RETURN(TensorCopy copy, TensorCopy::make(tensor, type, imatrix_ ? &*imatrix_ : nullptr));
      copies_.push_back(copy);
    }
    note_choices();
    return check_imatrix();
  }

  /// The recipe's choice, or the next best where the rows are no whole blocks of it.
  Result<DType> type_of(const InputTensor& tensor) {
    const Recipe::Choice choice = recipe_->choose(tensor.name, tensor.kind);
    if (!choice.forced && tensor.stored && tensor_group(tensor.name, tensor.kind) == TensorGroup::kOther)
      return *tensor.stored;  // nobody knows what it is for: it stays as it is
    const auto fits = [&](DType type) { return tensor.dims[0] % dtype_info(type).block_elements == 0; };
    if (fits(choice.type)) return choice.type;
    if (choice.forced)
      return usage(cat(escaped(tensor.name), ": rows of ", tensor.dims[0], " elements cannot be ",
                       dtype_info(choice.type).name, ", which has blocks of ", dtype_info(choice.type).block_elements));
    const DType instead = fits(DType::kQ8_0) ? DType::kQ8_0 : DType::kF16;
    fallbacks_[{choice.type, instead}].push_back(tensor.name);
    return instead;
  }

  void note_choices() const {
    for (const auto& [types, names] : fallbacks_)
      note(cat(names.size(), " matrices with rows that are no multiple of ", dtype_info(types.first).block_elements,
               " are stored as ", dtype_info(types.second).name, " in place of ", dtype_info(types.first).name, ": ",
               listed_names(names)));
    std::vector<std::string> lossy;
    for (const TensorCopy& copy : copies_) {
      const auto stored = copy.input().stored;
      if (stored && *stored != copy.type() && dtype_info(*stored).block_elements > 1 &&
          is_smaller(copy.type(), *stored))
        lossy.push_back(copy.input().name);
    }
    if (!lossy.empty())
      note(cat(lossy.size(),
               " matrices are quantised from an already quantised form, which costs precision: ", listed_names(lossy)));
  }

  static bool is_smaller(DType a, DType b) { return row_bytes(a, kWholeBlocks) < row_bytes(b, kWholeBlocks); }

  Status check_imatrix() const {
    if (!imatrix_) return {};
    std::vector<std::string> without;
    std::size_t used = 0;
    for (const TensorCopy& copy : copies_) {
      used += copy.weighted() ? 1 : 0;
      if (!copy.weighted() && uses_weights(copy.type())) without.push_back(copy.input().name);
    }
    if (used == 0)
      return Error{ErrorCode::kBadModel,
                   cat(escaped(options_.imatrix, 4096), ": none of its ", imatrix_->entries().size(),
                       " entries is for a tensor that this conversion quantises; the first is ",
                       escaped(imatrix_->entries()[0].name))};
    if (!without.empty())
      note(cat(without.size(), " quantised tensors are not in the importance matrix: ", listed_names(without)));
    return {};
  }

  Status declare() {
    writer_.emplace(options_.output);
    DS4_RETURN_IF_ERROR(input_->add_metadata(file_type_id(recipe_->main_type()), *writer_));
    if (imatrix_) {
      writer_->add_string("quantize.imatrix.file", fs::path(options_.imatrix).filename().string());
      if (!imatrix_->dataset().empty()) writer_->add_string("quantize.imatrix.dataset", imatrix_->dataset());
      writer_->add_u32("quantize.imatrix.entries_count", static_cast<std::uint32_t>(imatrix_->entries().size()));
      writer_->add_u32("quantize.imatrix.chunks_count", static_cast<std::uint32_t>(imatrix_->chunks()));
    }
    for (TensorCopy& copy : copies_) copy.declare(*writer_);
    return {};
  }

  // ---- Going on where an interrupted run stopped -------------------------------------------------------------------

  std::string part_path() const { return options_.output + ".part"; }
  std::string journal_path() const { return options_.output + ".journal"; }

  /// Of everything that the bytes of the tensors depend on; the header is compared by the writer.
  std::uint64_t fingerprint() const {
    constexpr std::uint64_t kEncoders = 1;  // counts up when an encoder gives other bytes
    std::string text = input_->identity();
    if (imatrix_) text += file_identity(options_.imatrix);
    for (const TensorCopy& copy : copies_) text += cat(dtype_info(copy.type()).name, " ");
    return content_hash(std::as_bytes(std::span(text)), kEncoders);
  }

  Status open_output() {
    done_.assign(copies_.size(), false);
    const std::vector<JournalEntry> claimed = read_journal(journal_path(), fingerprint());
    std::vector<JournalEntry> verified;
    if (!claimed.empty() && writer_->resume().ok()) {
      DS4_ASSIGN_OR_RETURN(verified, verify(claimed));
      note(cat("going on with an interrupted run: ", verified.size(), " of ", copies_.size(), " tensors are complete"));
    } else {
      std::error_code ignored;
      if (fs::exists(part_path(), ignored)) note("the partial file that is there is of another run: starting anew");
      DS4_RETURN_IF_ERROR(writer_->begin());
    }
    DS4_ASSIGN_OR_RETURN(part_, MappedFile::open(part_path()));
    DS4_ASSIGN_OR_RETURN(journal_, JournalWriter::create(journal_path(), fingerprint(), verified));
    resumed_ = verified.size();
    return {};
  }

  std::span<const std::byte> written(const MappedFile& part, const TensorCopy& copy) const {
    return part.bytes().subspan(writer_->tensor_offset(copy.index()), copy.output_bytes());
  }

  /// The entries whose bytes are what they claim; their tensors count as done.
  Result<std::vector<JournalEntry>> verify(const std::vector<JournalEntry>& claimed) {
    std::map<std::string_view, std::size_t> by_name;
    for (std::size_t i = 0; i < copies_.size(); ++i) by_name[copies_[i].input().name] = i;
    DS4_ASSIGN_OR_RETURN(const MappedFile part, MappedFile::open(part_path()));
    std::vector<char> good(claimed.size(), 0);
    std::uint64_t total = 0;
    for (const JournalEntry& entry : claimed) total += entry.bytes;
    DS4_RETURN_IF_ERROR(run_jobs(claimed.size(), total, {options_.threads, options_.cancel, {}},
                                 [&](std::size_t i, const JobStep& step) -> Status {
                                   const auto found = by_name.find(claimed[i].tensor);
                                   if (found == by_name.end()) return {};
                                   const auto bytes = written(part, copies_[found->second]);
                                   good[i] = bytes.size() == claimed[i].bytes && content_hash(bytes) == claimed[i].hash;
                                   release_pages(bytes);
                                   return step(bytes.size());
                                 }));
    std::vector<JournalEntry> verified;
    for (std::size_t i = 0; i < claimed.size(); ++i) {
      if (good[i] == 0) continue;
      const std::size_t copy = by_name.find(claimed[i].tensor)->second;
      if (done_[copy]) continue;
      done_[copy] = true;
      writer_->skip_data(copies_[copy].index());
      verified.push_back(claimed[i]);
    }
    return verified;
  }

  Error keep(Error error) {
    if (journal_->entries() == 0) return drop(std::move(error));
    writer_->keep_partial();
    error.message += cat("; ", journal_->entries(), " of ", copies_.size(),
                         " tensors are complete, the same command goes on with them");
    return error;
  }

  Error drop(Error error) {
    // Nobody is left to tell of a failure to remove it; without its partial file a journal means nothing.
    [[maybe_unused]] const Status removed = journal_->remove();
    return error;
  }

  // ---- Writing
  // -------------------------------------------------------------------------------------------------------

  Status copy_tensors() {
    struct Piece {
      std::uint32_t copy;
      std::uint32_t number;
    };
    std::vector<Piece> pieces;
    std::vector<std::atomic<std::uint64_t>> left(copies_.size());
    ConvertProgress progress;
    std::uint64_t work = 0;
    for (std::size_t c = 0; c < copies_.size(); ++c) {
      progress.total_bytes += copies_[c].output_bytes();
      if (done_[c]) progress.bytes += copies_[c].output_bytes();
      if (done_[c]) continue;
      left[c] = copies_[c].pieces();
      for (std::uint64_t p = 0; p < copies_[c].pieces(); ++p) {
        pieces.push_back({static_cast<std::uint32_t>(c), static_cast<std::uint32_t>(p)});
        work += copies_[c].piece_cost(p);
      }
    }
    std::atomic<std::uint64_t> bytes = progress.bytes;
    JobSettings settings{options_.threads, options_.cancel, {}};
    settings.progress = [&](std::uint64_t done, std::uint64_t total) {
      if (!events_.progress) return;
      progress.bytes = bytes.load(std::memory_order_relaxed);
      progress.work = total == 0 ? 1 : static_cast<double>(done) / static_cast<double>(total);
      events_.progress(progress);
    };
    return run_jobs(pieces.size(), work, settings, [&](std::size_t i, const JobStep& step) -> Status {
      const TensorCopy& copy = copies_[pieces[i].copy];
      DS4_ASSIGN_OR_RETURN(const std::uint64_t size, copy.run(pieces[i].number, *writer_));
      bytes.fetch_add(size, std::memory_order_relaxed);
      if (left[pieces[i].copy].fetch_sub(1) == 1) DS4_RETURN_IF_ERROR(complete(copy));
      return step(copy.piece_cost(pieces[i].number));
    });
  }

  /// All pieces of a tensor are written: the journal may say so.
  Status complete(const TensorCopy& copy) {
    const auto bytes = written(*part_, copy);
    const std::uint64_t hash = content_hash(bytes);
    release_pages(bytes);
    copy.release();
    const std::lock_guard lock(journal_mutex_);
    return journal_->add({copy.input().name, bytes.size(), hash});
  }

  // ---- What was done, or would be
  // ------------------------------------------------------------------------------------

  ConvertReport report() const {
    ConvertReport report;
    report.tensors = copies_.size();
    report.resumed = resumed_;
    report.files = input_->files();
    for (const TensorCopy& copy : copies_) report.input_bytes += copy.input().input_bytes();
    report.output_bytes = writer_->file_bytes();
    return report;
  }

  std::vector<PlanLine> plan_lines() const {
    std::vector<PlanLine> lines;
    for (int g = 0; g <= kTensorGroups; ++g) {
      PlanLine line{
          g < kTensorGroups ? std::string(tensor_group_name(static_cast<TensorGroup>(g))) : "MTP block", {}, 0, 0, 0};
      std::map<DType, std::size_t> found;
      for (const TensorCopy& copy : copies_) {
        const InputTensor& tensor = copy.input();
        const int group =
            is_mtp(tensor.name) ? kTensorGroups : static_cast<int>(tensor_group(tensor.name, tensor.kind));
        if (group != g) continue;
        ++line.tensors;
        line.elements += tensor.elements();
        line.bytes += copy.output_bytes();
        ++found[copy.type()];
      }
      if (line.tensors == 0) continue;
      for (const auto& [type, count] : found) line.types += cat(line.types.empty() ? "" : ", ", dtype_info(type).name);
      lines.push_back(std::move(line));
    }
    PlanLine rest{"metadata, padding", "", 0, 0, writer_->file_bytes()};
    PlanLine whole{"file", "", 0, 0, writer_->file_bytes()};
    for (const PlanLine& line : lines) {
      rest.bytes -= line.bytes;
      whole.tensors += line.tensors;
      whole.elements += line.elements;
    }
    lines.push_back(rest);
    lines.push_back(whole);
    return lines;
  }

  static constexpr std::size_t kWholeBlocks = 256;  // a multiple of every block

  const ConvertOptions& options_;
  const ConvertEvents& events_;
  std::unique_ptr<ModelInput> input_;
  std::optional<Recipe> recipe_;
  std::optional<Imatrix> imatrix_;
  std::vector<TensorCopy> copies_;
  std::map<std::pair<DType, DType>, std::vector<std::string>> fallbacks_;
  std::optional<gguf::Writer> writer_;
  std::vector<bool> done_;  // tensors taken over from an interrupted run
  std::size_t resumed_ = 0;
  std::optional<MappedFile> part_;
  std::optional<JournalWriter> journal_;
  std::mutex journal_mutex_;
};

}  // namespace

Result<ConvertReport> convert_model(const ConvertOptions& options, const ConvertEvents& events) {
  return Conversion(options, events).run();
}

Result<std::vector<PlanLine>> plan_conversion(const ConvertOptions& options, const ConvertEvents& events) {
  return Conversion(options, events).describe();
}

}  // namespace ds4
