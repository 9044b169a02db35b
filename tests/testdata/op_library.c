/* An operation that TensorFlow does not have, in the place of GatherV2: each index times ten, as floats.
 *
 * Compiled by tests/support/op_library.py; OP_NAME is the name to register. What it needs of TensorFlow's C API is
 * declared here, as the wheel's own headers are C++ in part. */

#include <stddef.h>
#include <stdint.h>

typedef struct TF_Status TF_Status;
typedef struct TF_Tensor TF_Tensor;
typedef struct TF_KernelBuilder TF_KernelBuilder;
typedef struct TF_OpKernelContext TF_OpKernelContext;
typedef struct TF_OpDefinitionBuilder TF_OpDefinitionBuilder;
typedef struct TF_ShapeInferenceContext TF_ShapeInferenceContext;
enum { TF_OK = 0, TF_FLOAT = 1 };

TF_Status *TF_NewStatus(void);
void TF_DeleteStatus(TF_Status *);
int TF_GetCode(const TF_Status *);
int64_t TF_TensorElementCount(const TF_Tensor *);
void *TF_TensorData(const TF_Tensor *);
void TF_DeleteTensor(TF_Tensor *);
void TF_GetInput(TF_OpKernelContext *, int, TF_Tensor **, TF_Status *);
TF_Tensor *TF_AllocateOutput(TF_OpKernelContext *, int, int, const int64_t *, int, size_t, TF_Status *);
void TF_OpKernelContext_Failure(TF_OpKernelContext *, TF_Status *);
TF_KernelBuilder *TF_NewKernelBuilder(const char *, const char *, void *(*)(void *),
                                      void (*)(void *, TF_OpKernelContext *), void (*)(void *));
void TF_RegisterKernelBuilder(const char *, TF_KernelBuilder *, TF_Status *);
TF_OpDefinitionBuilder *TF_NewOpDefinitionBuilder(const char *);
void TF_OpDefinitionBuilderAddInput(TF_OpDefinitionBuilder *, const char *);
void TF_OpDefinitionBuilderAddOutput(TF_OpDefinitionBuilder *, const char *);
void TF_OpDefinitionBuilderAddAttr(TF_OpDefinitionBuilder *, const char *);
void TF_OpDefinitionBuilderSetShapeInferenceFunction(TF_OpDefinitionBuilder *,
                                                     void (*)(TF_ShapeInferenceContext *, TF_Status *));
void TF_ShapeInferenceContextSetUnknownShape(TF_ShapeInferenceContext *, TF_Status *);
void TF_RegisterOpDefinition(TF_OpDefinitionBuilder *, TF_Status *);

static void compute(void *kernel, TF_OpKernelContext *context) {
  (void)kernel;
  TF_Status *status = TF_NewStatus();
  TF_Tensor *indices = NULL;
  TF_GetInput(context, 1, &indices, status);
  if (TF_GetCode(status) == TF_OK) {
    int64_t count = TF_TensorElementCount(indices);
    TF_Tensor *output = TF_AllocateOutput(context, 0, TF_FLOAT, &count, 1, count * sizeof(float), status);
    if (TF_GetCode(status) == TF_OK) {
      for (int64_t i = 0; i < count; i++)
        ((float *)TF_TensorData(output))[i] = 10.0f * ((const int32_t *)TF_TensorData(indices))[i];
      TF_DeleteTensor(output);
    }
    TF_DeleteTensor(indices);
  }
  if (TF_GetCode(status) != TF_OK) TF_OpKernelContext_Failure(context, status);
  TF_DeleteStatus(status);
}

__attribute__((constructor)) static void register_operation(void) {
  TF_Status *status = TF_NewStatus();
  TF_OpDefinitionBuilder *definition = TF_NewOpDefinitionBuilder(OP_NAME);
  TF_OpDefinitionBuilderAddInput(definition, "params: Tparams");
  TF_OpDefinitionBuilderAddInput(definition, "indices: Tindices");
  TF_OpDefinitionBuilderAddInput(definition, "axis: Taxis");
  TF_OpDefinitionBuilderAddOutput(definition, "output: Tparams");
  TF_OpDefinitionBuilderAddAttr(definition, "batch_dims: int = 0");
  TF_OpDefinitionBuilderAddAttr(definition, "Tparams: type");
  TF_OpDefinitionBuilderAddAttr(definition, "Tindices: type");
  TF_OpDefinitionBuilderAddAttr(definition, "Taxis: type");
  TF_OpDefinitionBuilderSetShapeInferenceFunction(definition, &TF_ShapeInferenceContextSetUnknownShape);
  TF_RegisterOpDefinition(definition, status);
  TF_KernelBuilder *kernel = TF_NewKernelBuilder(OP_NAME, "CPU", NULL, &compute, NULL);
  TF_RegisterKernelBuilder(OP_NAME, kernel, status);
  TF_DeleteStatus(status);
}
