/* bigdl-llm's Windows library as the page uses it: quantises a matrix and multiplies rows by it.
 *
 *   product.exe LIBRARY OUT IN ROWS FOLDER
 *
 * FOLDER holds weight.bin (fp32 [OUT, IN]) and x.bin (fp32 [ROWS, IN]); packed.bin and result.bin are written there. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <windows.h>

enum { SYM_INT4 = 2 };

typedef size_t (*quantize_t)(const float *, void *, int, size_t, int, int64_t *);
typedef void (*matmul_t)(const int64_t *, const void *, int, const int64_t *, const float *, float *);
typedef void (*init_t)(void);

static void *at(const char *folder, const char *name, void *data, size_t bytes, const char *mode) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, mode);
    size_t done = file == NULL ? 0 : mode[0] == 'r' ? fread(data, 1, bytes, file) : fwrite(data, 1, bytes, file);
    if (done != bytes || fclose(file) != 0) {
        fprintf(stderr, "%s: %zu of %zu bytes\n", path, done, bytes);
        exit(2);
    }
    return data;
}

int main(int count, char **argument) {
    if (count != 6) return 2;
    HMODULE library = LoadLibraryExA(argument[1], NULL, LOAD_WITH_ALTERED_SEARCH_PATH);
    if (library == NULL) {
        fprintf(stderr, "%s: error %lu\n", argument[1], GetLastError());
        return 3;
    }
    quantize_t quantize = (quantize_t)(void *)GetProcAddress(library, "ggml_quantize_tensor");
    matmul_t matmul = (matmul_t)(void *)GetProcAddress(library, "ggml_compute_forward_mul_mat_q_fp32");
    init_t init = (init_t)(void *)GetProcAddress(library, "llama_init_backend");
    if (quantize == NULL || matmul == NULL || init == NULL) return 4;
    init();

    const char *folder = argument[5];
    const int64_t out = atoll(argument[2]), in = atoll(argument[3]), rows = atoll(argument[4]);
    const size_t packed_bytes = (size_t)(out * in / 64 * 34), result_bytes = sizeof(float) * (size_t)(rows * out);
    float *weight = at(folder, "weight.bin", malloc(sizeof(float) * (size_t)(out * in)), sizeof(float) * (size_t)(out * in), "rb");
    float *x = at(folder, "x.bin", malloc(sizeof(float) * (size_t)(rows * in)), sizeof(float) * (size_t)(rows * in), "rb");
    void *packed = calloc(1, packed_bytes);
    float *result = calloc(1, result_bytes);
    int64_t histogram[16] = {0};

    quantize(weight, packed, SYM_INT4, (size_t)(out * in), (int)in, histogram);
    const int64_t weight_shape[2] = {in, out}, x_shape[2] = {in, rows};
    matmul(weight_shape, packed, SYM_INT4, x_shape, x, result);
    at(folder, "packed.bin", packed, packed_bytes, "wb");
    at(folder, "result.bin", result, result_bytes, "wb");
    return 0;
}
