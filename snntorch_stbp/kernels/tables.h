/* Blocks of neurons, and numbers per channel as numbers per neuron of a block.

   Sequences are [steps, n], step after step in memory; neuron i has channel (i / inner) % channels. */

#include "neuron.h"

typedef struct {
  int64_t steps, n, channels, inner, threads;
} shape;

/* Neurons of a block: whole rounds of channels where these alternate, so that all are alike, and as
   many rounds as end with a line of the cache. */
static int64_t lanes_of(const shape *s, int64_t rows) {
  int64_t lanes = MOST_BYTES / (rows * (int64_t)sizeof(real));
  lanes = lanes > MOST_LANES ? MOST_LANES : lanes;
  int64_t unit = s->inner == 1 ? s->channels : 64;
  while (unit * sizeof(stored) % LINE && unit <= lanes) unit *= 2;
  return lanes < unit ? unit : lanes / unit * unit;
}

/* `count` numbers per channel, [count, channels], as numbers per neuron, [count, lanes]. */
static void spread(real *tables, int64_t lanes, int64_t count, const real *values, const shape *s,
                   int64_t start, int64_t n) {
  RUNS(s, start, n)
  for (int64_t k = 0; k < count; k++)
    for (int64_t i = at; i < at + run; i++) tables[k * lanes + i] = values[k * s->channels + channel];
}
