#include "diffusion/resensemble/model.h"

#include <nlohmann/json.hpp>

#include "diffusion/resensemble/resfusion.h"

namespace mote::resensemble {

// ---- Config ---------------------------------------------------------------------------------------------------------

Schedule ModelConfig::levels() const { return is_resfusion() ? resfusion_schedule(T) : schedule_named(schedule, T); }

void ModelConfig::validate() const {
  levels();
  if (is_resfusion()) {
    if (prediction != Prediction::eps || scale != 1)
      fail(Error::Kind::usage, "target resfusion: predicts eps at scale 1, got ", name_of(prediction), " at ", scale);
  } else {
    map();
  }
}

std::string to_json(const ModelConfig& c) {
  nlohmann::ordered_json object = {{"net", nlohmann::ordered_json::parse(nn::to_json(c.net))}, {"target", c.target},
                                   {"scale", c.scale}, {"schedule", c.schedule}, {"T", c.T},
                                   {"prediction", name_of(c.prediction)}};
  return object.dump();
}

ModelConfig model_config_from_json(const std::string& text) {
  ModelConfig c;
  try {
    nlohmann::json object = nlohmann::json::parse(text);
    c.net = nn::denoiser_config_from_json(object.at("net").dump());
    object.at("target").get_to(c.target);
    object.at("scale").get_to(c.scale);
    object.at("schedule").get_to(c.schedule);
    object.at("T").get_to(c.T);
    c.prediction = prediction_named(object.at("prediction").get<std::string>());
    c.validate();
  } catch (const std::exception& error) {
    fail(Error::Kind::checkpoint, "model config: ", error.what());
  }
  return c;
}

// ---- Training -------------------------------------------------------------------------------------------------------

Tensor training_loss(nn::Denoiser& net, const ModelConfig& config, const Schedule& schedule, const Tensor& image,
                     const Tensor& x0, const Tensor& f, const Tensor& step, const Tensor& noise, const Tensor& weight) {
  Tensor x, wanted;
  {
    NoGrad no_grad;
    if (config.is_resfusion()) {
      x = resfusion_sample(schedule, x0, f, step, noise);
      wanted = resfusion_target(schedule, x0, f, step, noise);
    } else {
      Tensor xbar = target_of(config.map(), x0, f);
      x = q_sample(schedule, xbar, step, noise);
      wanted = training_target(schedule, config.prediction, xbar, step, noise);
    }
  }
  Tensor out = net.forward(x, step.to(DType::f32), image, f);
  if (!weight.defined()) return mse_loss(out, wanted);
  check(weight.shape() == x0.shape().with(3, 1), "training_loss: weight must be [N, H, W, 1] of x0 ", describe(x0),
        ", got ", describe(weight));
  Tensor squares = square(cast(out, wanted.dtype()) - wanted) * weight, total = sum(weight);
  double counted = total.item() * double(x0.size(3));
  if (counted <= 0) fail(Error::Kind::data, "training_loss: every pixel of the batch is ignored");
  return affine(sum(squares), 1 / counted, 0);
}

// ---- Sampling -------------------------------------------------------------------------------------------------------

Target sampled_target(const ModelConfig& config) { return config.is_resfusion() ? Target{1, 0} : config.map(); }

Tensor sample_model(nn::Denoiser& net, const ModelConfig& config, const Schedule& schedule,
                    const EnsembleOptions& options, const Tensor& image, const Tensor& f) {
  NoGrad no_grad;
  check(image.defined() && f.defined() && image.size(0) == f.size(0),
        "sample_model: an image for each prior needed, got ", describe(image), " and ", describe(f));
  bool was_training = net.is_training();
  net.train(false);
  nn::Denoiser::Condition all = net.encode(image, f), condition;
  std::vector<int64_t> held;
  EnsembleNetwork network = [&](const Tensor& state, double t, const std::vector<int64_t>& rows) {
    if (rows != held) {
      condition = all.rows(rows);
      held = rows;
    }
    return net.forward(state, full({state.size(0)}, t, DType::f32, state.device()), condition);
  };
  EnsembleOptions own = options;
  own.sampler.prediction = config.prediction;
  Tensor samples;
  try {
    samples = config.is_resfusion() ? resfusion_ensemble(schedule, own, network, f)
                                    : sample_ensemble(schedule, config.map(), own, network, f);
  } catch (...) {
    net.train(was_training);
    throw;
  }
  net.train(was_training);
  return samples;
}

}  // namespace mote::resensemble
