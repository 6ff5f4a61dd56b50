/* A spiking network of integers in C99, written by snntorch-stbp. Include it in one source file.

@WORDS@

   snn_state *s;                      static or on the heap: all memory that the network needs
   int32_t record[SNN_RECORD];

   A whole image, SNN_STEPS time steps:
       snn_run(s, image, record, NULL, NULL);      the largest element of `record` is the class

   Step by step, as the pixels come:
       snn_reset(s);                               membranes to zero; set `record` to zero too
       snn_step(s, image, record);                 one step, adds to `record`
       snn_spikes(s, layer);                       spikes of that step, 0 or 1, see snn_layers

   Images are unsigned integers [row][column][channel], SNN_INPUT of them; with SNN_FRAMES, snn_run
   takes SNN_STEPS frames one after the other. So are spikes [row][column][channel]. */
#ifndef SNN_NETWORK_H
#define SNN_NETWORK_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

