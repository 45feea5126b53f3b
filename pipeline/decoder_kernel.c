// What a decoder computes between its matrix products, each in one pass over memory: residual sum and norm,
// gated activation, attention of new positions over the cache, and the draw of a token.
//
// pipeline/decoder_kernel.py compiles this file for one head size (HEAD_SIZE, even) and one number format (float32,
// or bfloat16 where BFLOAT16 is defined). Sums are in float32, and what is not a number stays so. All arrays are
// without gaps. A row is computed by one thread alone, so results do not depend on the number of threads.

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SIZE = HEAD_SIZE, HALF = HEAD_SIZE / 2 };

static inline float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// A vector of a head is read as HALF pairs of numbers. In bfloat16 two neighbours share a word, and half a word is
// a float32 but for the bits that are zero; in float32 the first and the second half of the vector are paired.
#ifdef BFLOAT16
typedef uint16_t number;
enum { FIRST_STEP = 2, SECOND = 1 };

static inline float load(number x) { return from_bits((uint32_t)x << 16); }

static inline number rounded(float x) {  // to the nearest, ties to even
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (number)(x != x ? 0x7fc0 : nearest);  // the sum could carry what is not a number into zero
}

static inline float first_of(const number *vector, int pair) {
    return from_bits(((const uint32_t *)vector)[pair] << 16);
}

static inline float second_of(const number *vector, int pair) {
    return from_bits(((const uint32_t *)vector)[pair] & 0xffff0000u);
}
#else
typedef float number;
enum { FIRST_STEP = 1, SECOND = HALF };

static inline float load(number x) { return x; }
static inline number rounded(float x) { return x; }
static inline float first_of(const number *vector, int pair) { return vector[pair]; }
static inline float second_of(const number *vector, int pair) { return vector[pair + HALF]; }
#endif

// e^x for x up to 88, within 4 units in the last place: 2^n times a polynomial over |x - n ln 2| <= ln 2 / 2.
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    int32_t n = (int32_t)(x * 1.44269504f + 200.5f) - 200;  // the nearest, as what is cut off is positive
    float r = fmaf((float)n, -0.69314718f, x);              // rounded once: sums may be reordered elsewhere
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * from_bits((uint32_t)(n + 127) << 23);
}

// stream += added, where there is any; normed = stream / sqrt(mean(stream^2) + eps) * weight.
void add_norm(float *stream, const number *added, const number *weight, float eps, int64_t rows, int64_t width,
              number *normed, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        float *x = stream + row * width;
        if (added)
            for (int64_t i = 0; i < width; i++) x[i] += load(added[row * width + i]);
        float sum = 0;
        for (int64_t i = 0; i < width; i++) sum += x[i] * x[i];
        float inverse = 1 / sqrtf(sum / width + eps);
        for (int64_t i = 0; i < width; i++) normed[row * width + i] = rounded(x[i] * inverse * load(weight[i]));
    }
}

// result = silu(gate) * up; a row of `both` is a row of gate and then one of up.
void gated(const number *both, int64_t rows, int64_t width, number *result, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const number *gate = both + row * 2 * width, *up = gate + width;
        for (int64_t i = 0; i < width; i++) {
            float x = load(gate[i]);
            x = x < -80.0f ? -80.0f : x;  // the exponential of -x stays a number; silu is 0 there to 33 digits
            result[row * width + i] = rounded(x / (1 + exponential(-x)) * load(up[i]));
        }
    }
}

// A query or key, normed where there is a weight, and turned to its position.
static inline void turned(const number *vector, const number *weight, float eps, const float *cos, const float *sin,
                          float *result) {
    float x[SIZE], sum = 0;
    for (int i = 0; i < SIZE; i++) x[i] = load(vector[i]);
    if (weight) {
        for (int i = 0; i < SIZE; i++) sum += x[i] * x[i];
        float inverse = 1 / sqrtf(sum / SIZE + eps);
        for (int i = 0; i < SIZE; i++) x[i] *= inverse * load(weight[i]);
    }
    for (int i = 0; i < HALF; i++) {
        result[i] = x[i] * cos[i] - x[i + HALF] * sin[i];
        result[i + HALF] = x[i + HALF] * cos[i + HALF] + x[i] * sin[i + HALF];
    }
}

// Fetches what is read once a step, and leaves the last cache to the weights, which every step reads.
static inline void prefetch(const number *vector) {
    for (size_t at = 0; at < sizeof(number) * SIZE; at += 64) __builtin_prefetch((const char *)vector + at, 0, 0);
}

// What one query reads from the positions from `first` to `last`; `next` is the memory that is needed after them.
static inline void read_cache(const float *query, const number *keys, const number *values, const number *next,
                              int64_t first, int64_t last, float *scores, number *result) {
    float even[HALF], odd[HALF], read_even[HALF], read_odd[HALF], largest = -1e30f, total = 0;
    for (int i = 0; i < HALF; i++) {
        even[i] = query[i * FIRST_STEP];
        odd[i] = query[i * FIRST_STEP + SECOND];
        read_even[i] = read_odd[i] = 0;
    }
    for (int64_t t = first; t <= last; t++) {
        const number *key = keys + t * SIZE;
        float score = 0;
        for (int i = 0; i < HALF; i++) score += even[i] * first_of(key, i) + odd[i] * second_of(key, i);
        scores[t] = score;
        largest = score > largest ? score : largest;
        prefetch(values + t * SIZE);
    }
    for (int64_t t = first; t <= last; t++) scores[t] = exponential(scores[t] - largest);
    for (int64_t t = first; t <= last; t++) total += scores[t];
    for (int64_t t = first; t <= last; t++) {
        const number *value = values + t * SIZE;
        for (int i = 0; i < HALF; i++) {
            read_even[i] += scores[t] * first_of(value, i);
            read_odd[i] += scores[t] * second_of(value, i);
        }
        prefetch(next + t * SIZE);
    }
    for (int i = 0; i < HALF; i++) {
        result[i * FIRST_STEP] = rounded(read_even[i] / total);
        result[i * FIRST_STEP + SECOND] = rounded(read_odd[i] / total);
    }
}

// Attention of `count` new positions of each row, which join the cache at `length`, over all up to themselves.
//
// projected: (rows, count, heads + 2 key_heads, SIZE), queries, keys, values; cos, sin: (rows, count, SIZE);
// first: (rows), the first position in the cache that is no padding; keys, values: (rows, key_heads, capacity, SIZE);
// result: (rows, count, heads, SIZE). Positions of padding result in zeros. Returns 0, or 1 without memory.
int attend(const number *projected, const float *cos, const float *sin, const int64_t *first, number *keys,
           number *values, int64_t rows, int64_t count, int64_t heads, int64_t key_heads, int64_t capacity,
           int64_t length, float scale, const number *query_norm, float query_eps, const number *key_norm,
           float key_eps, number *result, int threads) {
    const int64_t served = heads / key_heads, stride = (heads + 2 * key_heads) * SIZE;
    float *all_scores = malloc(sizeof(float) * threads * (length + count));
    if (!all_scores) return 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t place = 0; place < rows * key_heads; place++) {
        const int64_t row = place / key_heads, key_head = place % key_heads;
        float *scores = all_scores + omp_get_thread_num() * (length + count), vector[SIZE];
        number *own_keys = keys + place * capacity * SIZE, *own_values = values + place * capacity * SIZE;
        for (int64_t n = 0; n < count; n++) {
            const int64_t last = length + n, at = row * count + n;
            const number *token = projected + at * stride;
            if (last < first[row]) {
                memset(own_keys + last * SIZE, 0, SIZE * sizeof(number));
                memset(own_values + last * SIZE, 0, SIZE * sizeof(number));
                memset(result + (at * heads + key_head * served) * SIZE, 0, served * SIZE * sizeof(number));
                continue;
            }
            turned(token + (heads + key_head) * SIZE, key_norm, key_eps, cos + at * SIZE, sin + at * SIZE, vector);
            for (int i = 0; i < SIZE; i++) own_keys[last * SIZE + i] = rounded(vector[i]);
            memcpy(own_values + last * SIZE, token + (heads + key_heads + key_head) * SIZE, SIZE * sizeof(number));
            for (int64_t head = key_head * served; head < (key_head + 1) * served; head++) {
                turned(token + head * SIZE, query_norm, query_eps, cos + at * SIZE, sin + at * SIZE, vector);
                for (int i = 0; i < SIZE; i++) vector[i] *= scale;
                read_cache(vector, own_keys, own_values, own_keys + capacity * SIZE, first[row], last, scores,
                           result + (at * heads + head) * SIZE);
            }
        }
    }
    free(all_scores);
    return 0;
}

enum { BLOCK = 64 };  // tokens of which the draw knows the sum

// The token at which the cumulative distribution of each row passes `uniform`, in [0, 1), and its log-probability
// under softmax(logits * inverse_temperature). Returns 0, or 1 without memory.
int draw(const number *logits, const float *uniform, int64_t rows, int64_t vocabulary, float inverse_temperature,
         int64_t *tokens, float *logprobs, int threads) {
    const int64_t num_blocks = (vocabulary + BLOCK - 1) / BLOCK, room = num_blocks * (BLOCK + 1);
    float *all_shares = calloc(threads * room, sizeof(float));
    if (!all_shares) return 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const number *scores = logits + row * vocabulary;
        float *shares = all_shares + omp_get_thread_num() * room, *sums = shares + num_blocks * BLOCK;
        float largest = -INFINITY, total = 0, passed = 0;
#pragma omp simd reduction(max : largest)  // one maximum alone waits for itself at every number
        for (int64_t i = 0; i < vocabulary; i++) {
            float x = load(scores[i]);
            largest = x > largest ? x : largest;
        }
        for (int64_t i = 0; i < vocabulary; i++) {
            float x = (load(scores[i]) - largest) * inverse_temperature;
            shares[i] = x < -87.0f ? 0.0f : exponential(x);
        }
        for (int64_t block = 0; block < num_blocks; block++) {
            float sum = 0;
            for (int i = 0; i < BLOCK; i++) sum += shares[block * BLOCK + i];
            sums[block] = sum;
        }
        for (int64_t block = 0; block < num_blocks; block++) total += sums[block];
        const float target = uniform[row] * total;
        int64_t block = 0, token = 0;
        for (int64_t other = 0; other < num_blocks; other++) {  // the last one with a share, if roundings want more
            if (!(sums[other] > 0)) continue;
            block = other;
            if (passed + sums[other] > target) break;
            passed += sums[other];
        }
        for (int64_t i = block * BLOCK; i < (block + 1) * BLOCK; i++) {
            if (!(shares[i] > 0)) continue;
            token = i;
            passed += shares[i];
            if (passed > target) break;
        }
        tokens[row] = token;
        logprobs[row] = (load(scores[token]) - largest) * inverse_temperature - logf(total);
    }
    free(all_shares);
    return 0;
}
