/* Runs the network of network.h on samples.bin (or the file that is given) and compares every spike
   of every layer and the record. Exits with 0 if all are equal, 1 at the first difference, 2 if the
   file is not that of this network. */
#include <stdio.h>

#include "network.h"

static snn_state state;
static uint8_t images[SNN_IMAGES], *packed;

static uint32_t little(const uint8_t *bytes)
{
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static int whole(FILE *file, void *bytes, size_t count)
{
    return fread(bytes, 1, count, file) == count;
}

static int compare(unsigned long sample, int layer, int step)
{
    const snn_layer *l = &snn_layers[layer];
    const snn_value *spikes = snn_spikes(&state, layer);
    int32_t i, count = l->channels * l->height * l->width;
    for (i = 0; i < count; i++) {
        const int expected = packed[i / 8] >> i % 8 & 1;
        if (spikes[i] != expected) {
            printf("sample %lu: '%s' differs at step %d, channel %ld, row %ld, column %ld: "
                   "%d instead of %d\n",
                   sample, l->name, step, (long)(i % l->channels),
                   (long)(i / l->channels / l->width), (long)(i / l->channels % l->width),
                   (int)spikes[i], expected);
            return 1;
        }
    }
    return 0;
}

int main(int count, char **arguments)
{
    const char *path = count > 1 ? arguments[1] : "samples.bin";
    FILE *file = fopen(path, "rb");
    static uint8_t buffer[SNN_MOST_SPIKES / 8 + 1], score[4];
    static snn_value frame[SNN_INPUT];
    uint8_t head[20];
    unsigned long sample, samples;
    double spikes = 0;
    packed = buffer;
    if (!file || !whole(file, head, sizeof head) || memcmp(head, "SNNTEST1", 8) != 0
        || little(head + 12) != SNN_IMAGES || little(head + 16) != SNN_NEURONS) {
        printf("'%s' holds no samples of this network\n", path);
        return 2;
    }
    samples = little(head + 8);
    for (sample = 0; sample < samples; sample++) {
        int32_t record[SNN_RECORD] = {0}, i;
        int step, layer;
        if (!whole(file, images, sizeof images))
            break;
        snn_reset(&state);
        for (step = 0; step < SNN_STEPS; step++) {
            for (i = 0; i < SNN_INPUT; i++)
                frame[i] = images[(SNN_FRAMES ? step * SNN_INPUT : 0) + i];
            snn_step(&state, frame, record);
            for (layer = 0; layer < SNN_LAYERS; layer++) {
                const snn_layer *l = &snn_layers[layer];
                const size_t size = (size_t)(l->channels * l->height * l->width);
                if (!whole(file, packed, (size + 7) / 8))
                    break;
                if (compare(sample, layer, step))
                    return 1;
                spikes += (double)size;
            }
            if (layer < SNN_LAYERS)
                break;
        }
        for (i = 0; i < SNN_RECORD; i++) {
            if (!whole(file, score, sizeof score))
                break;
            if ((uint32_t)record[i] != little(score)) {
                printf("sample %lu: the record differs at %ld: %ld instead of %lu (modulo 2^32)\n",
                       sample, (long)i, (long)record[i], (unsigned long)little(score));
                return 1;
            }
        }
        if (i < SNN_RECORD)
            break;
    }
    fclose(file);
    if (sample < samples) {
        printf("'%s' ends within sample %lu\n", path, sample);
        return 2;
    }
    printf("%lu samples, %.0f spikes: all equal\n", samples, spikes);
    return 0;
}
