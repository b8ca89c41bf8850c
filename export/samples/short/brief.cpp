// Calls the student of an edgecmd bundle in C++17: golden inputs in, and how far its embeddings are from theirs.
// It needs a bundle of `edgecmd export RUN --profiles w8,core` and one engine, whichever header is found:
//
//   ONNX Runtime:  g++ -std=c++17 -O2 brief.cpp -o brief -I ORT/include -L ORT/lib -lonnxruntime -Wl,-rpath,ORT/lib
//   OpenVINO:      g++ -std=c++17 -O2 brief.cpp -o brief -I OV/include OV/libs/libopenvino.so.* -Wl,-rpath,OV/libs
//   then:          ./student BUNDLE
//
// What makes the input of a picture is in embed.cpp, a folder above, as are the checks of a bundle.
// Exit codes: 0 all well; 2 a file cannot be used; 6 an embedding differs by more than core.json allows.
// Checked: compiled, and run with both engines (tests/export/test_samples_short.py).
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>
#if __has_include(<onnxruntime_cxx_api.h>)
#include <onnxruntime_cxx_api.h>
#else
#include <openvino/openvino.hpp>
#endif

using Floats = std::vector<float>;
using Error = std::runtime_error;  // of one sentence

// The embeddings of all inputs; the core takes one at a time.
Floats embed(const std::string& model, Floats& scaled) {
  Floats found;
  size_t size = 1;
#if __has_include(<onnxruntime_cxx_api.h>)
  Ort::Env env(ORT_LOGGING_LEVEL_FATAL, "student");
  Ort::Session session(env, model.c_str(), Ort::SessionOptions());
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const auto shape = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
  const char *from = "scaled", *to = "embedding";
  for (const auto one : shape) size *= size_t(one);
  for (size_t at = 0; at + size <= scaled.size(); at += size) {
    const auto input = Ort::Value::CreateTensor<float>(memory, &scaled[at], size, shape.data(), shape.size());
    auto output = session.Run(Ort::RunOptions{nullptr}, &from, &input, 1, &to, 1);
    const float* values = output[0].GetTensorMutableData<float>();
    found.insert(found.end(), values, values + output[0].GetTensorTypeAndShapeInfo().GetElementCount());
  }
#else  // in float32: else OpenVINO computes in bfloat16 on processors that have it
  const auto precise = ov::hint::inference_precision(ov::element::f32);
  auto request = ov::Core().compile_model(model, "CPU", precise).create_infer_request();
  const auto shape = request.get_tensor("scaled").get_shape();
  for (const auto one : shape) size *= one;
  for (size_t at = 0; at + size <= scaled.size(); at += size) {
    request.set_tensor("scaled", ov::Tensor(ov::element::f32, shape, &scaled[at]));
    request.infer();
    const ov::Tensor output = request.get_tensor("embedding");
    found.insert(found.end(), output.data<float>(), output.data<float>() + output.get_size());
  }
#endif
  if (found.size() < 2 || scaled.size() % size) throw Error("the raw file of scaled is not as long as some inputs");
  return found;
}

std::string read_file(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  if (stream) return {std::istreambuf_iterator<char>(stream), {}};
  throw Error(path + " cannot be read");
}

Floats read_raw(const std::string& path) {  // little-endian float32, as processors have them
  const std::string bytes = read_file(path);
  Floats made(bytes.size() / 4);
  std::memcpy(made.data(), bytes.data(), 4 * made.size());
  return made;
}

// In place of a reader of JSON: the text or number after a key, from a place on.
std::string after(const std::string& json, const std::string& key, size_t from = 0) {
  const size_t at = json.find(key, from), start = json.find_first_not_of(" \"", at + key.size());
  if (at == std::string::npos || start == std::string::npos) throw Error("core.json has no " + key);
  return json.substr(start, json.find_first_of("\",}\n", start) - start);
}

int run(const std::string& folder) {
  const std::string json = read_file(folder + "core.json"), format = after(json, "\"format\":");
  if (format != "1") throw Error("core.json has format " + format + "; this sample reads 1");
  const double allowed = std::stod(after(json, "\"outputs\":", json.find("\"tolerance\":")));
  const std::string file = after(json, "\"file\":", json.find("\"name\": \"scaled\"", json.find("\"cases\":")));
  const std::string first = folder + file.substr(0, file.rfind("scaled"));
  Floats scaled = read_raw(folder + file), expected = read_raw(first + "embedding.raw");
  const Floats found = embed(folder + after(json, "\"model\":"), scaled);
  if (found.size() != expected.size()) throw Error(first + "embedding.raw is not as long as the embeddings");
  float gap = 0;
  for (size_t i = 0; i < found.size(); i++)
    if (const float one = std::abs(found[i] - expected[i]); !(one <= gap)) gap = std::isnan(one) ? INFINITY : one;
  std::printf("differs by %.3g, allowed %.3g\n", double(gap), allowed);
  std::printf("first values %+.4f %+.4f\n", double(found[0]), double(found[1]));
  return gap <= allowed ? 0 : 6;
}

int main(int count, char** words) try {
  return run(count > 1 ? std::string(words[1]) + "/" : "");
} catch (const std::exception& error) {
  const std::string told = error.what();
  std::fprintf(stderr, "error: this is no bundle that brief.cpp reads (%s).\n", told.substr(0, told.find('\n')).c_str());
  return 2;
}
