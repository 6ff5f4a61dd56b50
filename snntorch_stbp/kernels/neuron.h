/* What both kinds of neurons share: numbers, the reset, the surrogate derivative.

   Of what is compiled decide
     STORED    as in real.h
     RESET     0 none, 1 to zero, 2 by subtraction of the threshold, 3 the same after the leak
     DETACH    1: no gradient through the reset
     CURVE     0 rectangular, 1 polynomial, 2 sigmoid, 3 gaussian, 4 fast sigmoid, 5 arc tangent
     STEPS     how many steps a neuron is taken through at once; a divisor of all

   Products and sums must not be contracted: spikes are those of the plain loop. */

#include <string.h>
#ifdef __AVX__
#include <immintrin.h>
#endif

#include "real.h"

static inline real kept(real u, real threshold) {
#if RESET == 1
  return u > threshold ? 0 : u;
#elif RESET == 2
  return u > threshold ? u - threshold : u;
#else
  (void)threshold;
  return u;
#endif
}

/* The next potential, of what was kept of the one before. */
static inline real next(real beta, real state, real current, real threshold) {
  const real u = beta * state + current;
#if RESET == 3
  return state > threshold ? u - threshold : u;
#else
  (void)threshold;
  return u;
#endif
}

/* What the gradient at a potential, `d`, is at what was kept of the one before, and what that is at
   that potential. After a delayed reset it stays `d` until the spike's share is taken of it. */
#if RESET == 3
#define BACK(d, beta) (d)
#define THROUGH(d, beta) ((d) * (beta))
#else
#define BACK(d, beta) ((d) * (beta))
#define THROUGH(d, beta) (d)
#endif

static inline real derivative(real v, real a, real root) { /* root: see rule.py */
#if CURVE == 0
  (void)root;
  return ABS(v) < a / 2 ? 1 / a : 0;
#elif CURVE == 1
  const real h = root / 2 - a / 4 * ABS(v);
  return h > 0 ? h : 0;
#elif CURVE == 2
  const real e = EXP(-ABS(v) / a);
  (void)root;
  return e / ((1 + e) * (1 + e)) / a;
#elif CURVE == 3
  return EXP(-v * v / (2 * a)) / root;
#elif CURVE == 4
  const real h = a * ABS(v) + 1;
  (void)root;
  return 1 / (h * h);
#else
  return a / 2 / (1 + root * v * (root * v));
#endif
}

/* What the gradient of a spike is before it goes through the surrogate: `d` is that of what is kept. */
static inline real of_spike(real given, real d, real u, real threshold) {
  (void)u, (void)threshold;
#if RESET == 1 && !DETACH
  return given - d * u;
#elif RESET >= 2 && !DETACH
  return given - d * threshold;
#else
  (void)d;
  return given;
#endif
}

/* Neurons of a block at most, and bytes that it keeps of them: so many stay in the cache. */
enum { MOST_LANES = 128, MOST_BYTES = 65536 };

/* Write past the cache what would not stay in it: a store into the cache reads the memory first.
   Whole lines only, since one that is written in parts is slower than either. */
static inline void put(stored *to, const stored *from, int64_t n, int past) {
  int64_t done = 0;
#ifdef __AVX__
  enum { EACH = sizeof(__m256i) / sizeof(stored) };
  if (past) {
    while (done < n && (uintptr_t)(to + done) % LINE) to[done] = from[done], done++;
    for (; done + 2 * EACH <= n; done += 2 * EACH)
      for (int64_t i = done; i < done + 2 * EACH; i += EACH)
        _mm256_stream_si256((__m256i *)(to + i), _mm256_loadu_si256((const __m256i *)(from + i)));
  }
#endif
  (void)past;
  memcpy(to + done, from + done, (n - done) * sizeof(stored));
}

static inline void wait_for_writes(void) {
#ifdef __AVX__
  _mm_sfence();
#endif
}

enum { LARGE = 4194304 /* bytes of a sequence that would not stay in the cache */ };

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Go through the neurons `start` to `start + n` of a shape in runs of one channel. */
#define RUNS(s, start, n)                                                                         \
  for (int64_t at = 0, channel = (start) / (s)->inner % (s)->channels,                            \
               run = smaller((s)->inner - (start) % (s)->inner, n);                               \
       at < (n); at += run, channel = channel + 1 == (s)->channels ? 0 : channel + 1,             \
               run = smaller((s)->inner, (n) - at))
