
/* Layers of neurons, in the order in which they are computed. */
typedef struct {
    const char *name;
    int32_t channels, height, width;
    size_t spikes;
} snn_layer;

static const snn_layer snn_layers[SNN_LAYERS] = {
@LAYERS@};

static inline const snn_value *snn_spikes(const snn_state *s, int layer)
{
    return (const snn_value *)((const char *)s + snn_layers[layer].spikes);
}

static inline void snn_reset(snn_state *s)
{
    memset(s, 0, sizeof *s);
}

static inline void snn_step(snn_state *s, const snn_value *image, int32_t *record)
{
@STAGES@
}

/* Called with the spikes of every layer at every step. */
typedef void snn_observer(void *context, int layer, int step, const snn_value *spikes);

static inline void snn_run(snn_state *s, const snn_value *images, int32_t *record,
                           snn_observer *observer, void *context)
{
    int step, layer;
    snn_reset(s);
    memset(record, 0, SNN_RECORD * sizeof *record);
    for (step = 0; step < SNN_STEPS; step++) {
        snn_step(s, images + (SNN_FRAMES ? (size_t)step * SNN_INPUT : 0), record);
        for (layer = 0; observer && layer < SNN_LAYERS; layer++)
            observer(context, layer, step, snn_spikes(s, layer));
    }
}

#endif
