// What such a file looks like: nothing inline from outside, its own helpers in an anonymous namespace.
namespace {
template <typename T>
T twice(T value) {
  return value + value;
}
}  // namespace

void double_all(float* values, int count) {
  for (int i = 0; i < count; ++i) values[i] = twice(values[i]);
}
