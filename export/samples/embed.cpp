// Runs the core of an edgecmd bundle in C++17: checks it, embeds a picture, names the nearest classes.
// It needs a bundle of `edgecmd export RUN --profiles w8,core` and one engine, whichever header is found:
//
//   ONNX Runtime:  g++ -std=c++17 -O2 embed.cpp -o embed -I ORT/include -L ORT/lib -lonnxruntime -Wl,-rpath,ORT/lib
//   OpenVINO:      g++ -std=c++17 -O2 embed.cpp -o embed -I OV/include OV/libs/libopenvino.so.* -Wl,-rpath,OV/libs
//   neither:       g++ -std=c++17 -O2 embed.cpp -o embed         # then it checks the preprocessing alone
//
// (ORT: an unpacked release of ONNX Runtime; OV: the folder of `pip install openvino`.)
//
//   ./embed BUNDLE                                         # the golden files alone
//   ./embed BUNDLE picture.pgm [CLASS=example.pgm ...]     # classes by example, else the trained ones
//
// Pictures are binary PGM or PPM of 8 bits. Exit codes: 0 all well; 2 a file cannot be used; 6 a golden value differs.
// Checked: compiled, and run against the golden files (tests/export/test_samples.py).
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>
#if __has_include(<onnxruntime_cxx_api.h>)
#include <onnxruntime_cxx_api.h>
#define WITH_ONNXRUNTIME
#elif __has_include(<openvino/openvino.hpp>)
#include <openvino/openvino.hpp>
#define WITH_OPENVINO
#endif

using Floats = std::vector<float>;
using Outputs = std::map<std::string, Floats>;

struct Refused : std::runtime_error {
  int code;
  explicit Refused(const std::string& message, int code = 2) : std::runtime_error(message), code(code) {}
};

std::string read_file(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream || std::filesystem::is_directory(path)) throw Refused(path.string() + " cannot be read.");
  return {std::istreambuf_iterator<char>(stream), {}};
}

// ---- As much JSON as core.json and labels.json need ----

struct Json {
  std::string text;
  double number = 0;
  std::vector<Json> items;
  std::vector<std::pair<std::string, Json>> members;

  const Json* find(const std::string& key) const {
    for (const auto& [name, value] : members) if (name == key) return &value;
    return nullptr;
  }
  const Json& operator[](const std::string& key) const {
    if (const Json* found = find(key)) return *found;
    throw Refused("core.json has no '" + key + "'. Export with --profiles w8,core.");
  }
};

class JsonReader {
 public:
  explicit JsonReader(std::string given) : text(std::move(given)) {}
  Json value(int depth = 0) {
    Json made;
    const char first = next();
    if (depth > 32) fail();
    if (first == '"') made.text = string();
    else if (first == '{' || first == '[') {
      const char last = first == '{' ? '}' : ']';
      for (at++; next() != last;) {
        if (first == '{') {
          if (next() != '"') fail();
          std::string key = string();
          if (next() != ':') fail();
          at++;
          made.members.emplace_back(key, value(depth + 1));
        } else made.items.push_back(value(depth + 1));
        if (next() == ',') at++;
        else if (next() != last) fail();
      }
      at++;
    } else {
      const size_t end = std::min(text.find_first_of(",]} \n\r\t", at), text.size());
      made.text = text.substr(at, end - at);  // true, false and null too
      made.number = std::strtod(made.text.c_str(), nullptr);
      if (end == at) fail();
      at = end;
    }
    return made;
  }

 private:
  [[noreturn]] void fail() const { throw Refused("core.json or labels.json is no JSON at letter " + std::to_string(at) + "."); }
  char next() {
    at = std::min(text.find_first_not_of(" \n\r\t", at), text.size());
    if (at == text.size()) fail();
    return text[at];
  }
  unsigned hex() {
    if (at + 5 > text.size()) fail();
    const std::string digits = text.substr(at + 1, 4);
    at += 4;
    return unsigned(std::strtoul(digits.c_str(), nullptr, 16));
  }
  std::string string() {
    std::string made;
    for (at++; at < text.size() && text[at] != '"'; at++) {
      if (text[at] != '\\') { made += text[at]; continue; }
      if (++at == text.size()) fail();
      const size_t known = std::string("bfnrt").find(text[at]);
      if (text[at] != 'u') { made += known == std::string::npos ? text[at] : "\b\f\n\r\t"[known]; continue; }
      unsigned code = hex();  // as UTF-8; two halves make one letter
      if (code >= 0xD800 && code < 0xDC00 && text.compare(at + 1, 2, "\\u") == 0) {
        at += 2;
        code = 0x10000 + ((code - 0xD800) << 10) + ((hex() - 0xDC00) & 0x3FF);
      }
      const int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
      made += char(more == 0 ? code : (0xFF00 >> (more + 1) & 0xFF) | code >> 6 * more);
      for (int part = more - 1; part >= 0; part--) made += char(0x80 | (code >> 6 * part & 0x3F));
    }
    if (at >= text.size()) fail();
    at++;
    return made;
  }
  std::string text;
  size_t at = 0;
};

// ---- The bundle: raw files and pictures ----

size_t whole_number(const Json& value) {
  if (!(value.number >= 1 && value.number <= 1e8 && value.number == std::floor(value.number)))
    throw Refused("core.json has the size '" + value.text + "'; allowed are whole numbers above 0.");
  return size_t(value.number);
}

struct Array {
  std::vector<size_t> shape;
  Floats values;
  Floats row(size_t at) const {
    const auto size = long(values.size() / shape[0]);
    return {values.begin() + long(at) * size, values.begin() + long(at + 1) * size};
  }
};

Array read_raw(const std::filesystem::path& folder, const Json& header) {
  static const std::map<std::string, size_t> sizes{{"uint8", 1}, {"uint16", 2}, {"float32", 4}};
  const std::string &file = header["file"].text, &dtype = header["dtype"].text;
  if (!sizes.count(dtype) || header["byte_order"].text != "little" || std::filesystem::path(file).filename() != file)
    throw Refused("core.json has a header of " + file + " that this sample does not read.");
  const std::string bytes = read_file(folder / file);
  Array made;
  double needed = double(sizes.at(dtype));
  for (const Json& one : header["shape"].items) {
    made.shape.push_back(whole_number(one));
    needed *= double(made.shape.back());
  }
  if (double(bytes.size()) != needed || made.shape.empty()) {
    char told[80];
    std::snprintf(told, sizeof told, " has %zu bytes; its header needs %.0f. Copy the bundle again.", bytes.size(), needed);
    throw Refused(file + told);
  }
  for (size_t at = 0; at < bytes.size(); at += sizes.at(dtype)) {
    uint32_t bits = 0;
    for (size_t byte = 0; byte < sizes.at(dtype); byte++) bits |= uint32_t(uint8_t(bytes[at + byte])) << 8 * byte;
    float number = float(bits);
    if (dtype == "float32") std::memcpy(&number, &bits, 4);
    made.values.push_back(number);
  }
  return made;
}

struct Picture {
  size_t height, width, channels;
  Floats levels;  // rows from the top, channels last
};

Picture read_picture(const std::string& path, size_t wanted) {
  const std::string bytes = read_file(path);
  size_t numbers[3] = {0, 0, 0}, at = 2;  // width, height, largest
  for (size_t& number : numbers) {
    while (at < bytes.size() && (std::isspace(uint8_t(bytes[at])) || bytes[at] == '#'))
      at = bytes[at] == '#' ? std::min(bytes.find('\n', at), bytes.size()) : at + 1;
    for (; at < bytes.size() && std::isdigit(uint8_t(bytes[at])) && number < 1000000000; at++)
      number = 10 * number + size_t(bytes[at] - '0');
  }
  const auto [width, height, largest] = numbers;
  const size_t most = size_t(1) << 26;
  const bool known = bytes.compare(0, 2, "P5") == 0 || bytes.compare(0, 2, "P6") == 0;
  if (!known || largest != 255 || std::max(width, height) > most || width * height < 1 || width * height > most)
    throw Refused(path + " is no binary PGM or PPM of 8 bits with 1 to 67108864 pixels.");
  const size_t channels = bytes[1] == '6' ? 3 : 1, count = width * height * channels;
  if (channels != wanted)
    throw Refused(path + " has " + std::to_string(channels) + " channels; the student takes " + std::to_string(wanted) + ".");
  if (bytes.size() < at + 1 + count) throw Refused(path + " is cut off: it has " + std::to_string(bytes.size()) + " bytes.");
  Picture made{height, width, channels, Floats(count)};
  for (size_t i = 0; i < count; i++) made.levels[i] = float(uint8_t(bytes[at + 1 + i]));
  return made;
}

// ---- The front end `image`, as core.json tells it in words ----

using Shares = std::vector<std::vector<std::pair<size_t, double>>>;

// For each of `num` numbers the pixels that it is made of, of `pixels`: whole blocks, or a linear filter.
Shares shares_of(size_t num, size_t pixels, bool blocks) {
  const double zoom = double(pixels) / double(num), reach = std::max(zoom, 1.0);
  Shares made(num);
  for (size_t i = 0; i < num; i++) {
    const double centre = (double(i) + 0.5) * zoom;
    double total = 0;
    for (size_t j = size_t(std::max(0.0, std::floor(centre - reach) - 1)); j < pixels && double(j) < centre + reach + 1; j++) {
      const double gap = std::abs(double(j) + 0.5 - centre);
      const double share = blocks ? double(gap < zoom / 2) : std::max(0.0, 1 - gap / reach);
      if (share > 0) made[i].emplace_back(j, share);
      total += share;
    }
    for (auto& part : made[i]) part.second /= total;
  }
  return made;
}

Floats see(const Picture& picture, const Json& numbers) {
  const std::string fit = numbers.find("fit") ? numbers["fit"].text : "squeeze";
  const size_t side = whole_number(numbers["image_size"]), shortest = std::min(picture.height, picture.width);
  const double offset = numbers["offset"].number, scale = numbers["scale"].number;
  const size_t height = fit == "crop" ? shortest : picture.height, width = fit == "crop" ? shortest : picture.width;
  const size_t top = (picture.height - height) / 2, left = (picture.width - width) / 2, longest = std::max(height, width);
  const auto shown = [&](size_t one) { return fit == "pad" ? std::max<size_t>(1, (2 * side * one + longest) / (2 * longest)) : side; };
  const size_t rows = shown(height), columns = shown(width);
  const bool blocks = height % rows == 0 && width % columns == 0;
  const Shares down = shares_of(rows, height, blocks), across = shares_of(columns, width, blocks);
  Floats scaled(picture.channels * side * side, float((1 - offset) / scale));  // white, where nothing is shown
  std::vector<double> line(width);
  for (size_t channel = 0; channel < picture.channels; channel++) {
    for (size_t row = 0; row < rows; row++) {
      std::fill(line.begin(), line.end(), 0);
      for (const auto& [y, share] : down[row])
        for (size_t x = 0; x < width; x++)
          line[x] += share * picture.levels[((top + y) * picture.width + left + x) * picture.channels + channel];
      for (size_t column = 0; column < columns; column++) {
        double level = 0.501;
        for (const auto& [x, share] : across[column]) level += share * line[x];
        const size_t place = (channel * side + (side - rows) / 2 + row) * side + (side - columns) / 2 + column;
        scaled[place] = float((std::floor(level) / 255 - offset) / scale);
      }
    }
  }
  return scaled;
}

// ---- The student: float32 (1, channels, side, side) to its outputs by name ----

class Student {
 public:
  Student(const std::filesystem::path& folder, const Json& record) : input(record["input"]["name"].text) {
    for (const Json& one : record["input"]["shape"].items) shape.push_back(whole_number(one));
    for (const Json& one : record["outputs"].items) names.push_back(one["name"].text);
    const std::filesystem::path path = folder / record["model"].text;
#if defined(WITH_ONNXRUNTIME)
    session = Ort::Session(env, path.c_str(), Ort::SessionOptions());
#elif defined(WITH_OPENVINO)
    // Else it computes in bfloat16 on processors that have it, which is too coarse for the golden values.
    const auto precise = ov::hint::inference_precision(ov::element::f32);
    request = ov::Core().compile_model(path.string(), "CPU", precise).create_infer_request();
#endif
  }
  Outputs run(Floats scaled) {
    size_t needed = 1;
    for (const size_t one : shape) needed *= one;
    if (scaled.size() != needed) throw Refused("The input has " + std::to_string(scaled.size()) + " numbers; the core takes " + std::to_string(needed) + ".");
    Outputs made;
#if defined(WITH_ONNXRUNTIME)
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const std::vector<int64_t> sizes(shape.begin(), shape.end());
    const auto tensor = Ort::Value::CreateTensor<float>(memory, scaled.data(), scaled.size(), sizes.data(), sizes.size());
    for (const std::string& name : names) {
      const char *from = input.c_str(), *to = name.c_str();
      auto found = session.Run(Ort::RunOptions{nullptr}, &from, &tensor, 1, &to, 1);
      const float* values = found[0].GetTensorMutableData<float>();
      made[name] = Floats(values, values + found[0].GetTensorTypeAndShapeInfo().GetElementCount());
    }
#elif defined(WITH_OPENVINO)
    request.set_tensor(input, ov::Tensor(ov::element::f32, shape, scaled.data()));
    request.infer();
    for (const std::string& name : names) {
      const ov::Tensor found = request.get_tensor(name);
      made[name] = Floats(found.data<float>(), found.data<float>() + found.get_size());
    }
#endif
    return made;
  }
#if defined(WITH_ONNXRUNTIME) || defined(WITH_OPENVINO)
  static constexpr bool there = true;
#else
  static constexpr bool there = false;
#endif
  std::vector<std::string> names;

 private:
  std::string input;
  std::vector<size_t> shape;
#if defined(WITH_ONNXRUNTIME)
  Ort::Env env{ORT_LOGGING_LEVEL_FATAL, "embed"};
  Ort::Session session{nullptr};
#elif defined(WITH_OPENVINO)
  ov::InferRequest request;
#endif
};

double gap_of(const Floats& found, const Floats& expected) {
  double worst = found.size() == expected.size() ? 0 : INFINITY;
  for (size_t i = 0; i < std::min(found.size(), expected.size()); i++) {
    const double gap = std::abs(double(found[i]) - expected[i]);
    worst = gap <= worst ? worst : std::isfinite(gap) ? gap : INFINITY;
  }
  return worst;
}

// Compares preprocessing and student, apart, with the golden files.
void check(const std::filesystem::path& folder, const Json& record, Student& student) {
  const std::string& front = record["front_end"]["name"].text;
  for (const Json& one : record["cases"].items) {
    std::map<std::string, Array> arrays;
    for (const Json& header : one["arrays"].items) arrays[header["name"].text] = read_raw(folder, header);
    const auto array = [&](const std::string& name) -> const Array& {
      if (!arrays.count(name) || arrays[name].shape[0] != arrays["scaled"].shape[0]) throw Refused("core.json lists no fitting '" + name + "'.");
      return arrays[name];
    };
    if (!arrays.count("scaled")) throw Refused("core.json lists no 'scaled'.");
    double seen = 0, given = 0;
    for (size_t row = 0; row < array("scaled").shape[0]; row++) {
      if (front == "image") {
        const std::vector<size_t>& shape = array("image").shape;
        if (shape.size() != 4) throw Refused("core.json lists pictures that are not (N, height, width, channels).");
        seen = std::max(seen, gap_of(see({shape[1], shape[2], shape[3], array("image").row(row)}, record["front_end"]["numbers"]), array("scaled").row(row)));
      }
      Outputs found = student.run(array("scaled").row(row));
      for (const std::string& name : student.names)
        if (Student::there) given = std::max(given, gap_of(found[name], array(name).row(row)));
    }
    std::printf("%s: preprocessing ", one["name"].text.c_str());
    if (front == "image") std::printf("differs by %.3g, ", seen);
    else std::printf("(%s) is not checked, ", front.c_str());
    if (Student::there) std::printf("student by %.3g\n", given);
    else std::printf("student is not run (compiled without an engine)\n");
    const Json& allowed = record["tolerance"];
    if (!(seen <= allowed["scaled"].number && given <= allowed["outputs"].number))
      throw Refused("The golden values of " + one["name"].text + " differ by more than core.json allows.", 6);
  }
}

// The picture's nearest classes: of the examples, else the trained ones.
void answer(const std::filesystem::path& folder, const Json& record, Student& student, const std::vector<std::string>& words) {
  const Json& numbers = record["front_end"]["numbers"];
  if (record["front_end"]["name"].text != "image")
    throw Refused("The front end " + record["front_end"]["name"].text + " is not in this sample; its steps are in core.json.");
  if (!Student::there) throw Refused("Compiled without an engine, it can only check the preprocessing: give the compiler the headers of one.");
  const auto embed = [&](const std::string& path) { return student.run(see(read_picture(path, whole_number(numbers["channels"])), numbers)); };
  Outputs found = embed(words[0]);
  const Floats embedding = found["embedding"];
  std::vector<std::pair<std::string, double>> scores;
  std::map<std::string, std::vector<double>> sums;
  for (size_t i = 1; i < words.size(); i++) {
    const size_t equals = words[i].find('=');
    if (equals == 0 || equals == std::string::npos) throw Refused(words[i] + " is no CLASS=example.pgm.");
    const Floats example = embed(words[i].substr(equals + 1))["embedding"];
    std::vector<double>& sum = sums[words[i].substr(0, equals)];
    sum.resize(example.size());
    for (size_t d = 0; d < sum.size(); d++) sum[d] += example[d];
  }
  for (const auto& [name, sum] : sums) {
    double product = 0, length = 0;
    for (size_t d = 0; d < sum.size(); d++) product += sum[d] * embedding[d], length += sum[d] * sum[d];
    scores.emplace_back(name, product / std::sqrt(length));
  }
  if (sums.empty() && found.count("scores")) {
    const Json labels = JsonReader(read_file(folder / "labels.json")).value();
    for (size_t i = 0; i < std::min(labels.items.size(), found["scores"].size()); i++) scores.emplace_back(labels.items[i].text, found["scores"][i]);
  }
  std::stable_sort(scores.begin(), scores.end(), [](const auto& one, const auto& other) { return one.second > other.second; });
  std::printf("%s:", words[0].c_str());
  for (size_t i = 0; i < std::min<size_t>(scores.size(), 3); i++) std::printf("%s %s %.4f", i ? "," : "", scores[i].first.c_str(), scores[i].second);
  for (size_t d = 0; scores.empty() && d < std::min<size_t>(embedding.size(), 4); d++) std::printf("%s %+.4f", d ? "" : " first values", double(embedding[d]));
  std::printf("\n");
}

int main(int count, char** given) {
  const std::vector<std::string> words(given + 1, given + std::max(count, 1));
  try {
    if (words.empty()) throw Refused("Give a bundle: embed BUNDLE [picture.pgm [CLASS=example.pgm ...]]");
    const std::filesystem::path folder(words[0]);
    const Json record = JsonReader(read_file(folder / "core.json")).value();
    if (record["format"].text != "1") throw Refused("core.json has format " + record["format"].text + "; this sample reads 1. Take that edgecmd's sample.");
    Student student(folder, record);
    check(folder, record, student);
    if (words.size() > 1) answer(folder, record, student, {words.begin() + 1, words.end()});
    return 0;
  } catch (const Refused& error) {
    std::fflush(stdout);
    std::fprintf(stderr, "error: %s\n", error.what());
    return error.code;
  } catch (const std::exception& error) {  // such as of the engine, whose sentences may have many lines
    const std::string told = error.what();
    std::fprintf(stderr, "error: this cannot be computed: %s\n", told.substr(0, told.find('\n')).c_str());
    return 2;
  }
}
