#include "bench/synthetic_model.h"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <numeric>

#include "base/available_memory.h"
#include "base/rng.h"
#include "base/text.h"
#include "base/thread_pool.h"
#include "gguf/writer.h"
#include "quant/random_weights.h"

namespace ds4::bench {

namespace {

constexpr std::uint32_t kAlignment = 65536;  // whole system pages on every machine, so that a tensor can be mapped
constexpr std::uint64_t kPieceBlocks = 65536;

/// What model/shape.h reads, written.
void add_metadata(const ModelShape& shape, std::uint64_t seed, gguf::Writer& writer) {
  const Dims& d = shape.dims;
  const auto u32 = [&](std::string_view key, std::int64_t value) {
    writer.add_u32(cat("deepseek4.", key), static_cast<std::uint32_t>(value));
  };
  const auto f32 = [&](std::string_view key, float value) { writer.add_f32(cat("deepseek4.", key), value); };
  writer.add_string("general.architecture", "deepseek4");
  writer.add_string("general.name", shape.name);
  writer.add_string("general.description", cat("random weights, seed ", seed));
  u32("block_count", std::ssize(shape.layers));
  u32("context_length", shape.context_length);
  u32("embedding_length", d.hidden);
  u32("vocab_size", d.vocab);
  u32("attention.head_count", d.heads);
  u32("attention.head_count_kv", 1);
  u32("attention.key_length", d.head_dim);
  u32("attention.value_length", d.head_dim);
  u32("attention.q_lora_rank", d.q_lora);
  u32("attention.output_lora_rank", d.o_lora);
  u32("attention.output_group_count", d.o_groups);
  u32("attention.sliding_window", d.window);
  u32("attention.indexer.head_count", d.index_heads);
  u32("attention.indexer.key_length", d.index_dim);
  u32("attention.indexer.top_k", d.index_topk);
  f32("attention.layer_norm_rms_epsilon", d.rms_eps);
  f32("attention.compress_rope_freq_base", shape.rope.compressed_base);
  u32("rope.dimension_count", d.rope_dim);
  f32("rope.freq_base", shape.rope.base);
  writer.add_string("deepseek4.rope.scaling.type", "yarn");
  f32("rope.scaling.factor", shape.rope.yarn_factor);
  u32("rope.scaling.original_context_length", shape.rope.original_context);
  f32("rope.scaling.yarn_beta_fast", shape.rope.beta_fast);
  f32("rope.scaling.yarn_beta_slow", shape.rope.beta_slow);
  u32("expert_count", d.experts);
  u32("expert_used_count", d.experts_used);
  u32("expert_feed_forward_length", d.expert_ff);
  u32("expert_shared_count", d.shared_ff / d.expert_ff);
  u32("expert_gating_func", 4);
  writer.add_bool("deepseek4.expert_weights_norm", true);
  f32("expert_weights_scale", d.route_scale);
  u32("hyper_connection.count", d.hc);
  u32("hyper_connection.sinkhorn_iterations", d.sinkhorn_iterations);
  f32("hyper_connection.epsilon", d.hc_eps);

  std::vector<std::int32_t> ratios;
  std::vector<float> limits;
  std::int64_t hashed = 0;
  for (const LayerShape& layer : shape.layers) {
    ratios.push_back(layer.ratio);
    limits.push_back(layer.swiglu_limit);
    hashed += layer.hash_routed ? 1 : 0;
  }
  u32("hash_layer_count", hashed);
  writer.add_i32_array("deepseek4.attention.compress_ratios", ratios);
  writer.add_f32_array("deepseek4.swiglu_clamp_exp", limits);
}

std::vector<std::uint64_t> file_dims(const WeightSpec& weight) {
  std::vector<std::uint64_t> dims = {static_cast<std::uint64_t>(weight.in)};
  if (weight.role != WeightRole::kVector) dims.push_back(static_cast<std::uint64_t>(weight.out));
  if (weight.count > 1) dims.push_back(static_cast<std::uint64_t>(weight.count));
  return dims;
}

/// Vectors and tables are small, and written at once: norms and scales of 1, small biases, experts that differ.
Status write_small(gguf::Writer& writer, std::size_t index, const WeightSpec& weight, int experts, std::uint64_t seed) {
  if (weight.role == WeightRole::kTable) {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(weight.in * weight.out));
    fill_random_experts(random_bits(seed, index), static_cast<std::uint32_t>(experts),
                        static_cast<std::uint32_t>(weight.in), ids);
    return writer.write_data(index, 0, std::as_bytes(std::span(ids)));
  }
  std::vector<float> values(static_cast<std::size_t>(weight.in), 1.0F);
  const bool neutral = weight.name.ends_with("norm.weight") || weight.name.ends_with("scale.weight");
  if (!neutral) fill_random_vector(random_bits(seed, index), 0.05F, values);
  return writer.write_data(index, 0, std::as_bytes(std::span(values)));
}

/// The file, complete but for its matrices, which are still a hole.
Result<AddressSpace> write_header(const SyntheticOptions& options) {
  const ModelShape shape = synthetic_shape(options.spec);
  const std::vector<WeightSpec> weights = list_weights(shape);
  MemoryDisk disk;
  gguf::Writer writer("synthetic.gguf", kAlignment, disk);
  add_metadata(shape, options.seed, writer);
  for (const WeightSpec& weight : weights)
    writer.add_tensor(weight.name, published_type(weight, options.spec.mix), file_dims(weight));
  DS4_RETURN_IF_ERROR(writer.begin());
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (weights[i].role == WeightRole::kMatrix || weights[i].role == WeightRole::kLookup) writer.skip_data(i);
    else DS4_RETURN_IF_ERROR(write_small(writer, i, weights[i], shape.dims.experts, options.seed));
  }
  DS4_RETURN_IF_ERROR(writer.finish());
  return disk.take();
}

bool is_matrix(const gguf::TensorInfo& tensor) { return tensor.n_dims > 1 && tensor.type != DType::kI32; }

/// A few megabytes of one matrix.
struct Piece {
  const gguf::TensorInfo* tensor;
  std::uint64_t offset;  // in the tensor
  std::uint64_t bytes;
};
std::vector<Piece> pieces_of(const gguf::File& file) {
  std::vector<Piece> pieces;
  for (const gguf::TensorInfo& tensor : file.tensors()) {
    if (!is_matrix(tensor)) continue;
    const std::uint64_t most = dtype_info(tensor.type).block_bytes * kPieceBlocks;
    for (std::uint64_t at = 0; at < tensor.data.size(); at += most)
      pieces.push_back({&tensor, at, std::min<std::uint64_t>(most, tensor.data.size() - at)});
  }
  return pieces;
}

std::uint64_t piece_seed(std::uint64_t seed, const Piece& piece) {
  return random_bits(seed, piece.tensor->offset + piece.offset, 1);
}

/// Calls work(piece) for all pieces, on all threads.
void for_pieces(const std::vector<Piece>& pieces, int threads, const std::function<void(const Piece&)>& work) {
  ThreadPool pool(threads, "ds4-fill");
  pool.run([&](int, int) {
    for (auto task = pool.take_task(); task < std::ssize(pieces); task = pool.take_task())
      work(pieces[static_cast<std::size_t>(task)]);
  });
}

Status check_memory(std::uint64_t bytes, const std::string& name) {
  const auto available = available_memory();
  if (!available || bytes <= *available) return {};
  return Error{ErrorCode::kOutOfMemory,
               cat(name, " needs ", human_bytes(bytes), " of memory, ", human_bytes(*available),
                   " are available: fewer layers, --synthetic-cache FILE or --synthetic-memory aliased need less")};
}

void fill_in_place(const gguf::File& file, AddressSpace& space, const SyntheticOptions& options) {
  for_pieces(pieces_of(file), options.threads, [&](const Piece& piece) {
    const auto to = space.bytes().subspan(piece.tensor->offset + piece.offset, piece.bytes);
    fill_random_weights(piece.tensor->type, piece_seed(options.seed, piece), to);
  });
}

// --- aliased --------------------------------------------------------------------------------------------------------

/// The stretch of the pool that holds blocks of one type. A view may begin at every multiple of `unit`: there both a
/// block and a system page begin.
struct PoolRegion {
  std::uint64_t begin = 0;
  std::uint64_t unit = 0;
  std::uint64_t units = 0;
};

std::map<DType, PoolRegion> plan_pool(const gguf::File& file, std::uint64_t pool_bytes) {
  std::map<DType, std::uint64_t> type_bytes;
  for (const gguf::TensorInfo& tensor : file.tensors())
    if (is_matrix(tensor)) type_bytes[tensor.type] += tensor.data.size();
  std::uint64_t total = 0;
  for (const auto& [type, bytes] : type_bytes) total += bytes;
  std::map<DType, PoolRegion> regions;
  std::uint64_t end = 0;
  for (const auto& [type, bytes] : type_bytes) {
    const std::uint64_t unit = std::lcm(system_page(), std::uint64_t{dtype_info(type).block_bytes});
    const double share = static_cast<double>(bytes) / static_cast<double>(total);
    const auto wanted = static_cast<std::uint64_t>(share * static_cast<double>(std::min(pool_bytes, total)));
    regions[type] = {end, unit, std::max<std::uint64_t>(4, wanted / unit)};
    end += unit * regions[type].units;
  }
  return regions;
}

void fill_pool(const SharedPool& pool, const std::map<DType, PoolRegion>& regions, const SyntheticOptions& options) {
  ThreadPool threads(options.threads, "ds4-fill");
  for (const auto& [type, region] : regions) {
    threads.run([&, type = type, region = region](int, int) {
      for (auto task = threads.take_task(); task < static_cast<std::int64_t>(region.units);
           task = threads.take_task()) {
        const std::uint64_t at = region.begin + static_cast<std::uint64_t>(task) * region.unit;
        fill_random_weights(type, random_bits(options.seed, at, 2), pool.bytes().subspan(at, region.unit));
      }
    });
  }
}

/// Covers `tensor` with views of its region, from a place of its own, so that no two tensors are the same.
Status map_tensor(const gguf::TensorInfo& tensor, AddressSpace& space, const SharedPool& pool,
                  const PoolRegion& region) {
  std::uint64_t unit = random_bits(tensor.offset, 0) % region.units;
  std::byte* to = space.bytes().data() + tensor.offset;
  const std::uint64_t page = system_page();
  for (std::uint64_t left = (tensor.data.size() + page - 1) / page * page; left > 0; unit = 0) {
    const std::uint64_t bytes = std::min(left, (region.units - unit) * region.unit);
    DS4_RETURN_IF_ERROR(pool.map({to, bytes}, region.begin + unit * region.unit));
    to += bytes;
    left -= bytes;
  }
  return {};
}

Status alias_matrices(const gguf::File& file, AddressSpace& space, const SyntheticOptions& options) {
  const auto regions = plan_pool(file, options.pool_bytes);
  const PoolRegion& last = std::max_element(regions.begin(), regions.end(), [](const auto& a, const auto& b) {
                             return a.second.begin < b.second.begin;
                           })->second;
  const std::uint64_t bytes = last.begin + last.unit * last.units;
  DS4_RETURN_IF_ERROR(check_memory(bytes, "a pool of random weights"));
  DS4_ASSIGN_OR_RETURN(const SharedPool pool, SharedPool::create(bytes));
  fill_pool(pool, regions, options);
  for (const gguf::TensorInfo& tensor : file.tensors())
    if (is_matrix(tensor)) DS4_RETURN_IF_ERROR(map_tensor(tensor, space, pool, regions.at(tensor.type)));
  return {};  // the views keep the pool's memory alive
}

// --- cache file -----------------------------------------------------------------------------------------------------

/// What two files must share to be the same: everything before the weights. The seed is in there.
std::span<const std::byte> header_of(const gguf::File& file, std::span<const std::byte> bytes) {
  std::uint64_t end = bytes.size();
  for (const gguf::TensorInfo& tensor : file.tensors()) end = std::min(end, tensor.offset);
  return bytes.first(end);
}

Result<std::optional<gguf::File>> find_cache(const gguf::File& wanted, std::span<const std::byte> wanted_bytes,
                                             const std::string& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::optional<gguf::File>();
  DS4_ASSIGN_OR_RETURN(const MappedFile mapped, MappedFile::open(path));
  const auto header = header_of(wanted, wanted_bytes);
  const auto there = mapped.bytes();
  if (there.size() != wanted_bytes.size() || !std::ranges::equal(there.first(header.size()), header))
    return Error{ErrorCode::kUsage,
                 cat(escaped(path, 4096), ": expected a cache of \"", wanted.get_string("general.name")->value(),
                     "\", found another file: remove it, or give another name")};
  DS4_ASSIGN_OR_RETURN(gguf::File file, gguf::File::open(path));
  return std::optional(std::move(file));
}

Status write_cache(const gguf::File& file, std::span<const std::byte> bytes, const SyntheticOptions& options) {
  FileSystem& disk = FileSystem::real();
  const std::string part = options.cache + ".part";
  DS4_ASSIGN_OR_RETURN(const auto out, disk.create(part));
  DS4_RETURN_IF_ERROR(out->truncate(bytes.size()));
  DS4_RETURN_IF_ERROR(out->write_at(0, header_of(file, bytes)));
  for (const gguf::TensorInfo& tensor : file.tensors())
    if (!is_matrix(tensor)) DS4_RETURN_IF_ERROR(out->write_at(tensor.offset, tensor.data));
  const std::vector<Piece> pieces = pieces_of(file);
  std::vector<Status> written(pieces.size());
  for_pieces(pieces, options.threads, [&](const Piece& piece) {
    std::vector<std::byte> buffer(piece.bytes);
    fill_random_weights(piece.tensor->type, piece_seed(options.seed, piece), buffer);
    written[static_cast<std::size_t>(&piece - pieces.data())] =
        out->write_at(piece.tensor->offset + piece.offset, buffer);
  });
  for (Status& status : written) DS4_RETURN_IF_ERROR(std::move(status));
  return disk.rename(part, options.cache);
}

}  // namespace

Result<SyntheticModel> SyntheticModel::create(const SyntheticOptions& options) {
  DS4_ASSIGN_OR_RETURN(AddressSpace space, write_header(options));
  const std::string name = options.spec.name();
  DS4_ASSIGN_OR_RETURN(gguf::File file, gguf::File::parse(space.bytes(), name));
  SyntheticModel model;
  const std::string size = human_bytes(file.size());
  if (!options.cache.empty()) {
    DS4_ASSIGN_OR_RETURN(auto cached, find_cache(file, space.bytes(), options.cache));
    model.how_ = cat(size, " of random weights in ", escaped(options.cache, 4096), cached ? "" : ", written now");
    if (!cached) {
      DS4_RETURN_IF_ERROR(write_cache(file, space.bytes(), options));
      DS4_ASSIGN_OR_RETURN(cached, gguf::File::open(options.cache));
    }
    model.file_ = std::move(*cached);
    return model;
  }
  if (options.aliased) {
    DS4_RETURN_IF_ERROR(alias_matrices(file, space, options));
    model.how_ = cat(size, " of random weights, views of ", human_bytes(options.pool_bytes));
  } else {
    DS4_RETURN_IF_ERROR(check_memory(file.size(), name));
    fill_in_place(file, space, options);
    model.how_ = cat(size, " of random weights in memory");
  }
  model.space_ = std::move(space);
  model.file_ = std::move(file);
  return model;
}

}  // namespace ds4::bench
