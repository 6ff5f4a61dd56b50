/* The numbers that are computed with, and those that lie in memory. Of what is compiled decides
     STORED    0 float, 1 double, 2 bfloat16 (computed in float) */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#if STORED == 1
typedef double real;
#define ABS fabs
#define EXP exp
#define RINT rint
#define FLOOR floor
#else
typedef float real;
#define ABS fabsf
#define EXP expf
#define RINT rintf
#define FLOOR floorf
#endif

#if STORED == 2
typedef uint16_t stored;
typedef union { uint32_t bits; float value; } word;

static inline real load(stored half) { return ((word){.bits = (uint32_t)half << 16}).value; }

static inline stored store(real value) { /* to the nearest, ties to even */
  const uint32_t bits = ((word){.value = value}).bits;
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return (stored)(value == value ? rounded : 0x7fc0);
}
#else
typedef real stored;
static inline real load(stored value) { return value; }
static inline stored store(real value) { return value; }
#endif

enum { LINE = 64 /* bytes of a line of the cache */ };

/* Memory for `bytes` that begins with a line of the cache, or NULL. What `malloc` returns mostly does
   not, and every other vector then lies across two lines: the neuron took 1.4 times as long. */
static inline void *lines(int64_t bytes) {
  return aligned_alloc(LINE, (bytes + LINE - 1) / LINE * LINE);
}
