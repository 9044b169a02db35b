// The operation of op_library.c as C++ has it: a library with a copy of absl that reads the attributes of its node.
//
// Compiled by tests/support/op_library.py against the headers of the wheel; OP_NAME is the name to register.

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

#include "absl/hash/hash.h"

// Libraries such as those of tensorflow-text are linked against an absl of their own. This is the part that matters:
// the seed of its hashes, by which a protobuf map finds a key, is the address of a variable.
const void *const absl::hash_internal::MixingHashState::kSeed = &kSeed;

namespace {

class TimesTen : public tensorflow::OpKernel {
 public:
  explicit TimesTen(tensorflow::OpKernelConstruction *construction) : OpKernel(construction) {
    factor_ = construction->def().attr().at("batch_dims").i() + 10.0f;
  }

  void Compute(tensorflow::OpKernelContext *context) override {
    const tensorflow::Tensor &indices = context->input(1);
    tensorflow::Tensor *output = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, indices.shape(), &output));
    for (int64_t i = 0; i < indices.NumElements(); i++)
      output->flat<float>()(i) = factor_ * indices.flat<int32_t>()(i);
  }

 private:
  float factor_;
};

REGISTER_OP(OP_NAME)
    .Input("params: Tparams")
    .Input("indices: Tindices")
    .Input("axis: Taxis")
    .Output("output: Tparams")
    .Attr("batch_dims: int = 0")
    .Attr("Tparams: type")
    .Attr("Tindices: type")
    .Attr("Taxis: type")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext *context) {
      context->set_output(0, context->UnknownShape());
      return absl::OkStatus();
    });
REGISTER_KERNEL_BUILDER(Name(OP_NAME).Device("CPU"), TimesTen);

}  // namespace
