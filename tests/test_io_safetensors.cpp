#include "tensor/io/safetensors.h"

#include <filesystem>

#include "tests/io_support.h"

using namespace mote;
using namespace mote::test;

namespace {

/// A file of the given header text and data, with the header's length in front.
Bytes raw_file(const std::string& header, const Bytes& data, int64_t length = -1) {
  uint64_t bytes = length < 0 ? header.size() : uint64_t(length);
  Bytes file(8);
  std::memcpy(file.data(), &bytes, 8);
  return file + bytes_of(header) + data;
}

std::vector<std::pair<std::string, Tensor>> every_dtype() {
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (DType dtype : {DType::u8, DType::f32, DType::bf16, DType::f64, DType::i32, DType::i64})
    tensors.emplace_back(concat_text("layer.", dtype), from({1, 2, 3, 4, 5, 6}, {2, 3}, dtype));
  tensors.emplace_back("scalar", from({7}, Shape{}));
  tensors.emplace_back("none", empty(Shape{0, 3}));
  tensors.emplace_back("six axes", zeros({1, 2, 1, 2, 1, 2}));
  tensors.emplace_back("name \"with\" \\ and \xc3\xa9", from({-1}, {1}));
  return tensors;
}

}  // namespace

TEST_CASE("safetensors come back with the same names, dtypes, shapes and values", "[io]") {
  ScratchFolder folder;
  std::string path = folder.path("m.safetensors");
  std::map<std::string, std::string> metadata{{"step", "12"}, {"config", "a = \"b\"\n"}, {"", "empty key"}};
  io::save_safetensors(path, every_dtype(), metadata);
  io::Safetensors file = io::load_safetensors(path);
  CHECK(file.tensors.size() == every_dtype().size());
  for (const auto& [name, tensor] : every_dtype()) {
    REQUIRE(file.tensors.count(name) == 1);
    CHECK(file.tensors[name].dtype() == tensor.dtype());
    CHECK_SAME(file.tensors[name], tensor);
  }
  for (const auto& [key, value] : metadata) CHECK(file.metadata[key] == value);
  CHECK(file.metadata["mote.hash"].size() == 16);

  auto [infos, header_metadata] = io::read_safetensors_header(path);
  CHECK(header_metadata == file.metadata);
  int64_t position = 0;
  for (size_t i = 0; i < infos.size(); ++i) {
    CHECK(infos[i].name == every_dtype()[i].first);
    CHECK(infos[i].shape == every_dtype()[i].second.shape());
    CHECK(infos[i].begin == position);
    position = infos[i].end;
  }
}

TEST_CASE("saving again what was loaded gives the same bytes", "[io]") {
  ScratchFolder folder;
  io::save_safetensors(folder.path("a"), every_dtype(), {{"k", "v"}});
  io::save_safetensors(folder.path("b"), every_dtype(), io::load_safetensors(folder.path("a")).metadata);
  CHECK(io::read_file(folder.path("a"), 1 << 20) == io::read_file(folder.path("b"), 1 << 20));
}

TEST_CASE("a file without tensors and one of another program can be read", "[io]") {
  ScratchFolder folder;
  std::string path = folder.path("m");
  io::save_safetensors(path, {}, {});
  CHECK(io::load_safetensors(path).tensors.empty());
  write_bytes(path, raw_file("{}", {}));
  CHECK(io::load_safetensors(path).metadata.empty());
  // Spaces at the end, offsets not in the order of the header, no metadata.
  write_bytes(
      path,
      raw_file(
          R"({"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},"a":{"shape":[1],"data_offsets":[0,1],"dtype":"U8"}}   )",
          {9, 8, 7}));
  io::Safetensors file = io::load_safetensors(path);
  CHECK_SAME(file.tensors["a"], from({9}, {1}, DType::u8));
  CHECK_SAME(file.tensors["b"], from({8, 7}, {2}, DType::u8));
  CHECK(io::read_safetensors_header(path).first[0].name == "a");
}

TEST_CASE("every flipped bit of a saved file is noticed", "[io]") {
  ScratchFolder folder;
  std::string path = folder.path("m");
  io::save_safetensors(path, {{"w", from({1, 2, 3}, {3})}, {"v", from({4}, {1, 1}, DType::bf16)}}, {{"step", "1000"}});
  Bytes good = io::read_file(path, 1 << 20);
  int64_t unnoticed = 0;
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    Bytes damaged = good;
    damaged[bit / 8] ^= uint8_t(1 << bit % 8);
    write_bytes(path, damaged);
    CAPTURE(bit);
    std::string outcome = not_failing(Error::Kind::checkpoint, {path}, [&] { io::load_safetensors(path); });
    if (outcome == "no error") ++unnoticed;
    else CHECK(outcome == "");
  }
  CHECK(unnoticed == 0);
}

TEST_CASE("a safetensors file cut off at any byte is an error", "[io]") {
  ScratchFolder folder;
  std::string path = folder.path("m");
  io::save_safetensors(path, {{"w", from({1, 2, 3}, {3})}}, {{"step", "1"}});
  Bytes good = io::read_file(path, 1 << 20);
  for (size_t length = 0; length < good.size(); ++length) {
    write_bytes(path, first_bytes(good, length));
    CAPTURE(length);
    CHECK_FAILS(Error::Kind::checkpoint, io::load_safetensors(path), path);
    CHECK_FAILS(Error::Kind::checkpoint, io::read_safetensors_header(path), path);
  }
  write_bytes(path, good + Bytes{0});
  CHECK_FAILS(Error::Kind::checkpoint, io::load_safetensors(path), path, "1 bytes behind the last tensor");
  CHECK_FAILS(Error::Kind::data, io::load_safetensors(folder.path("none")), "none", "cannot be opened");
  CHECK_FAILS(Error::Kind::data, io::load_safetensors(folder.path()), "folder");
}

TEST_CASE("hostile safetensors headers are refused with the reason", "[io]") {
  struct Case {
    std::string why;  // in the message
    std::string header;
    size_t data_bytes;
    int64_t length = -1;  // of the header, where it lies
  };
  auto entry = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"w":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
  };
  const std::string f32 = R"("F32")";
  const std::string one = R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})",
                    two = R"({"dtype":"U8","shape":[1],"data_offsets":[1,2]})";
  std::vector<Case> cases{
      {"the header should have 3 bytes, but only 2 follow", "{}", 0, 3},
      {"100000000 is the most", "{}", 0, 100000001},
      {"100000000 is the most", "{}", 0, INT64_MAX},
      {"does not begin with '{'", "", 0},
      {"does not begin with '{'", " {}", 0},
      {"does not begin with '{'", "[]", 0},
      {"not valid JSON", "{", 0},
      {"not valid JSON", "{}}", 0},
      {"not valid JSON", "{} x", 0},
      {"not valid JSON", R"({"w":})", 0},
      {"not valid JSON in UTF-8", "{\"w\xff\":{}}", 0},
      {"not valid JSON in UTF-8", "{\"w\xc0\x80\":{}}", 0},
      {"a zero at byte 11", std::string("{\"w\0\":{}}", 9), 0},
      {"a zero at byte 10", std::string("{}\0 hidden", 10), 0},
      {"is a list", R"({"w":)" + std::string(100000, '['), 0},
      {"an object", R"({"w":{"dtype":)" + std::string(100000, '{'), 0},
      {"'a' is a list", R"({"__metadata__":{"a":)" + std::string(10, '['), 0},
      {"stands twice", R"({"w":)" + one + R"(,"w":)" + two + "}", 2},
      {"stands twice", R"({"w":)" + one + R"(,"\u0077":)" + two + "}", 2},
      {"stands twice", R"({"__metadata__":{},"__metadata__":{}})", 0},
      {"stands twice", R"({"__metadata__":{"a":"1","a":"2"}})", 0},
      {"dtype stands twice", R"({"w":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1},
      {"empty name", R"({"":)" + one + "}", 1},
      {"__metadata__ is a string", R"({"__metadata__":"x"})", 0},
      {"metadata 'a' is a number", R"({"__metadata__":{"a":1}})", 0},
      {"metadata 'a' is null", R"({"__metadata__":{"a":null}})", 0},
      {"is a number", R"({"w":1})", 0},
      {"is true or false", R"({"w":true})", 0},
      {"has no dtype", R"({"w":{}})", 0},
      {"has no shape", R"({"w":{"dtype":"U8","data_offsets":[0,0]}})", 0},
      {"has no data_offsets", R"({"w":{"dtype":"U8","shape":[]}})", 0},
      {"unknown key 'size'", R"({"w":{"dtype":"U8","size":1}})", 0},
      {"dtype 'F16'", entry(R"("F16")", "[1]", "[0,2]"), 2},
      {"dtype 'f32'", entry(R"("f32")", "[1]", "[0,4]"), 4},
      {"dtype is a number", entry("1", "[1]", "[0,4]"), 4},
      {"shape is a number", entry(f32, "1", "[0,4]"), 4},
      {"shape is a string", entry(f32, R"("1")", "[0,4]"), 4},
      {"negative number", entry(f32, "[-1]", "[0,4]"), 4},
      {"no 64-bit integer", entry(f32, "[1.0]", "[0,4]"), 4},
      {"not valid JSON", entry(f32, "[1e400]", "[0,4]"), 4},
      {"no 64-bit integer", entry(f32, "[99999999999999999999999]", "[0,4]"), 4},
      {"too large", entry(f32, "[18446744073709551615]", "[0,4]"), 4},
      {"too large", entry(f32, "[4294967296,4294967296]", "[0,0]"), 0},
      {"too large", entry(f32, "[0,4294967296,4294967296]", "[0,0]"), 0},
      {"too large", entry(f32, "[4611686018427387904,2,2]", "[0,0]"), 0},
      {"more than 6 axes", entry(f32, "[1,1,1,1,1,1,1]", "[0,4]"), 4},
      {"shape contains a list", entry(f32, "[[1]]", "[0,4]"), 4},
      {"1 data_offsets", entry(f32, "[1]", "[0]"), 4},
      {"more than 2 data_offsets", entry(f32, "[1]", "[0,4,8]"), 4},
      {"data_offsets contains a negative", entry(f32, "[1]", "[-4,0]"), 4},
      {"end lies before the beginning", entry(f32, "[1]", "[4,0]"), 4},
      {"spans bytes 0..4 (4) but f32[2] needs 8 bytes", entry(f32, "[2]", "[0,4]"), 4},
      {"spans bytes 0..8 (8) but f32[1] needs 4 bytes", entry(f32, "[1]", "[0,8]"), 8},
      {"only 3 bytes of data", entry(f32, "[1]", "[0,4]"), 3},
      {"only 4 bytes of data", entry(f32, "[1]", "[9223372036854775803,9223372036854775807]"), 4},
      {"1 bytes behind the last tensor", entry(f32, "[1]", "[0,4]"), 5},
      {"bytes 0..1 before tensor 'w' belong to no tensor", entry(f32, "[1]", "[1,5]"), 5},
      {"inside the tensor before it", R"({"a":)" + one + R"(,"b":)" + one + "}", 1},
      {"inside the tensor before it",
       R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
       4},
      {"inside the tensor before it",
       R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
       4},
      {"no mote.hash", R"({"__metadata__":{"mote.format":"1"}})", 0},
      {"does not match its hash", R"({"__metadata__":{"mote.hash":"0000000000000000"}})", 0},
  };
  ScratchFolder folder;
  std::string path = folder.path("hostile");
  for (const Case& c : cases) {
    write_bytes(path, raw_file(c.header, Bytes(c.data_bytes, 1), c.length));
    CAPTURE(c.header.substr(0, 200));
    CHECK_FAILS(Error::Kind::checkpoint, io::load_safetensors(path), path, c.why);
  }
}

TEST_CASE("a PyTorch pickle is recognised and the message says how to convert it", "[io]") {
  ScratchFolder folder;
  // How files of torch.save begin: a zip archive since version 1.6, before that a pickle of a magic number.
  Bytes zip = bytes_of(std::string("PK\3\4\0\0\x08\x08\0\0\0\0\0\0\0\0\0\0", 18) + "archive/data.pkl");
  Bytes pickle = bytes_of("\x80\x02\x8a\nl\xfc\x9c" "F\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.");
  std::string path = folder.path("weights.pt");
  for (const Bytes& bytes : {zip, pickle}) {
    write_bytes(path, bytes);
    CHECK_FAILS(Error::Kind::checkpoint, io::load_safetensors(path), path, "PyTorch pickle", "run any code",
                "torch.load('" + path + "', map_location='cpu', weights_only=True)", "save_file");
    CHECK_FAILS(Error::Kind::checkpoint, io::read_safetensors_header(path), "PyTorch pickle");
  }
  write_bytes(path, bytes_of("GIF89a, which is no pickle"));
  CHECK(not_failing(Error::Kind::checkpoint, {"pickle"}, [&] { io::load_safetensors(path); }) != "");
  // A header of 640 bytes begins with 0x80 0x02 too.
  std::string header = "{" + std::string(638, ' ') + "}";
  write_bytes(path, raw_file(header, {}));
  CHECK(io::load_safetensors(path).tensors.empty());
}

TEST_CASE("tensors are handed over one at a time in the order of the data, and the hash is compared last", "[io]") {
  ScratchFolder folder;
  std::string path = folder.path("m.safetensors");
  io::save_safetensors(path, {{"b", from({1, 2}, {2})}, {"a", from({3}, {1})}}, {{"k", "v"}});
  std::vector<std::string> names;
  io::read_safetensors(path, [&](const io::SafetensorsInfo& info, Tensor tensor) {
    CHECK(tensor.shape() == info.shape);
    CHECK_SAME(tensor, io::load_safetensors(path).tensors.at(info.name));
    names.push_back(info.name);
  });
  CHECK(names == std::vector<std::string>{"b", "a"});
  std::string bytes;
  {
    std::ifstream in(path, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(in), {});
  }
  bytes.back() ^= 1;
  write_bytes(path, bytes_of(bytes));
  names.clear();
  auto take = [&](const io::SafetensorsInfo& info, Tensor) { names.push_back(info.name); };
  CHECK_FAILS(Error::Kind::checkpoint, io::read_safetensors(path, take), "does not match its hash");
  CHECK(names.size() == 2);
}

TEST_CASE("tensors that cannot be saved are refused before anything is written", "[io]") {
  ScratchFolder folder;
  std::string path = folder.path("m");
  Tensor w = zeros({1});
  CHECK_FAILS(Error::Kind::argument, io::save_safetensors(path, {{"w", w}, {"w", w}}, {}), "'w'", "twice");
  CHECK_FAILS(Error::Kind::argument, io::save_safetensors(path, {{"", w}}, {}), "name");
  CHECK_FAILS(Error::Kind::argument, io::save_safetensors(path, {{"__metadata__", w}}, {}), "name");
  CHECK_FAILS(Error::Kind::argument, io::save_safetensors(path, {{"w", {}}}, {}), "undefined");
  CHECK_FAILS(Error::Kind::argument, io::save_safetensors(path, {{"\xff", w}}, {}), "UTF-8");
  CHECK_FAILS(Error::Kind::argument, io::save_safetensors(path, {}, {{"k", "\xff"}}), "UTF-8");
  CHECK(!std::filesystem::exists(path));
}
