"""The fixed text of exported controllers: the C functions of `player.py`'s operations, and what stands around them."""

from __future__ import annotations

C_HEAD = """\
/* {origin}
 *
 * A whole controller: it normalises, runs the network, scales and clips to the robot's units. It needs C99 and math.h
 * (link with -lm), allocates nothing and changes no global. Include it in one source file: every file that includes it
 * has its constants, {constants} bytes. A call takes {stack} bytes of the stack, and some for its own variables.
 */
#ifndef T3D_POLICY_H
#define T3D_POLICY_H

#include <math.h>

#ifdef __FAST_MATH__
#error "with -ffast-math a compiler takes every number for finite, and NaN would reach the motors"
#endif

#define T3D_POLICY_OBS_SIZE {obs_size}
#define T3D_POLICY_ACTION_SIZE {action_size}
{period}
{arrays}

{functions}
/* Write the action for an observation and return 0. If the observation or what the network makes of it is not finite,
 * return 1 and leave the action as it is: what was written there last is then held.
 */
static inline int t3d_policy_act(const float obs[], float action[])
{{
{buffers}
    for (int i = 0; i < T3D_POLICY_OBS_SIZE; i++) {{
        if (!isfinite(obs[i])) {{
            return 1;
        }}
        {take}
    }}
{body}
    for (int i = 0; i < T3D_POLICY_ACTION_SIZE; i++) {{
        if (!isfinite({last}[i])) {{
            return 1;
        }}
    }}
    for (int i = 0; i < T3D_POLICY_ACTION_SIZE; i++) {{
        const float low = t3d_action_low[i], high = t3d_action_high[i];
        float scaled = {last}[i] + 1.0f;
        scaled *= 0.5f * (high - low);
        scaled += low;
        action[i] = scaled < low ? low : scaled > high ? high : scaled;
    }}
    return 0;
}}

#endif
"""

# In each, y may be x, but where sizes differ.
C_FUNCTIONS = {
    "normalize": """\
static inline float t3d_normalized(float x, double mean, double std, double most)
{
    const double scaled = ((double)x - mean) / std;
    return (float)(scaled < -most ? -most : scaled > most ? most : scaled);
}
""",
    "dense": """\
static inline void t3d_dense(const float *x, float *y, const float *weight, const float *bias, int inputs, int outputs)
{
    for (int o = 0; o < outputs; o++) {
        const float *row = weight + (long)o * inputs;
        float a = 0.0f, b = 0.0f, c = 0.0f, d = 0.0f; /* four sums: faster, and less is rounded away */
        int i = 0;
        for (; i + 3 < inputs; i += 4) {
            a += row[i] * x[i];
            b += row[i + 1] * x[i + 1];
            c += row[i + 2] * x[i + 2];
            d += row[i + 3] * x[i + 3];
        }
        for (; i < inputs; i++) {
            a += row[i] * x[i];
        }
        y[o] = ((a + b) + (c + d)) + bias[o];
    }
}
""",
    "layer_norm": """\
static inline void t3d_layer_norm(const float *x, float *y, const float *weight, const float *bias, int size)
{
    float mean = 0.0f, variance = 0.0f;
    for (int i = 0; i < size; i++) {
        mean += x[i];
    }
    mean /= (float)size;
    for (int i = 0; i < size; i++) {
        y[i] = x[i] - mean;
        variance += y[i] * y[i];
    }
    variance /= (float)size;
    for (int i = 0; i < size; i++) {
        y[i] = y[i] / sqrtf(variance + 1e-5f) * weight[i] + bias[i];
    }
}
""",
    "relu": """\
static inline void t3d_relu(const float *x, float *y, int size)
{
    for (int i = 0; i < size; i++) {
        y[i] = x[i] < 0.0f ? 0.0f : x[i];
    }
}
""",
    "elu": """\
static inline void t3d_elu(const float *x, float *y, int size)
{
    for (int i = 0; i < size; i++) {
        y[i] = x[i] < 0.0f ? expm1f(x[i]) : x[i];
    }
}
""",
    "avg_l1_norm": """\
static inline void t3d_avg_l1_norm(const float *x, float *y, int size)
{
    float mean = 0.0f;
    for (int i = 0; i < size; i++) {
        mean += fabsf(x[i]);
    }
    mean /= (float)size;
    for (int i = 0; i < size; i++) {
        y[i] = x[i] / (mean < 1e-8f ? 1e-8f : mean);
    }
}
""",
    "concat": """\
static inline void t3d_copy(const float *x, float *y, int size)
{
    for (int i = 0; i < size; i++) {
        y[i] = x[i];
    }
}
""",
    "tanh": """\
static inline void t3d_tanh(const float *x, float *y, int size)
{
    for (int i = 0; i < size; i++) {
        y[i] = tanhf(x[i]);
    }
}
""",
}

C_MAIN = """\
/* An example of a program around the controller: it reads observations from its input, one after another, and writes
 * an action a line. In a robot sensors stand in the place of scanf, motors in that of printf, and a timer calls.
 *
 *     cc -std=c99 -O2 main.c -o controller -lm && echo 0 0 0 | ./controller
 */
#include <stdio.h>

#include "policy.h"

int main(void)
{
    float obs[T3D_POLICY_OBS_SIZE], action[T3D_POLICY_ACTION_SIZE] = {0};
    int seen = 0, held = 0;
    while (scanf("%f", &obs[seen]) == 1) {
        if (++seen < T3D_POLICY_OBS_SIZE) {
            continue;
        }
        seen = 0;
        /* What is not finite is answered with the action before. A watchdog counts how often in a row. */
        held += t3d_policy_act(obs, action);
        for (int i = 0; i < T3D_POLICY_ACTION_SIZE; i++) {
            printf("%.9g%c", (double)action[i], i + 1 < T3D_POLICY_ACTION_SIZE ? ' ' : '\\n');
        }
        fflush(stdout);
    }
    if (held > 0) {
        fprintf(stderr, "%d actions were held\\n", held);
    }
    return held > 0;
}
"""

NUMPY_HEAD = '''\
"""{origin}

A whole controller: it normalises, runs the network, scales and clips to the robot's units. It needs NumPy and the .npz
beside it, and no thread: sums have a fixed order.

    import {module}
    action = {module}.act(obs)    # obs ({obs_size},) or (N, {obs_size}), action {action_shape} in the robot's units
"""
'''

NUMPY_TAIL = '''

# ---- this policy

_FILE = np.load(Path(__file__).with_suffix(".npz"), allow_pickle=False)
LOW, HIGH = _FILE["action_low"], _FILE["action_high"]
{operations}


def act(obs):
    """Return the action for an observation ({obs_size},), or actions for N of them, in the robot's units.

    Raises:
        ValueError: obs has another shape, or it or the action is not finite.
    """
    given = np.asarray(obs, np.float32)
    if given.shape[-1:] != ({obs_size},) or given.ndim > 2:
        raise ValueError(f"expected observations of shape ({obs_size},) or (N, {obs_size}), got {{given.shape}}")
    if not np.isfinite(given).all():
        raise ValueError("the observation is not finite")
    rows = np.ascontiguousarray(given.reshape(-1, {obs_size}))
{normalize}    action = play(OPERATIONS, rows)
    if not np.isfinite(action).all():
        raise ValueError("the action is not finite")
    action = np.clip((action + np.float32(1)) * (np.float32(0.5) * (HIGH - LOW)) + LOW, LOW, HIGH)
    return action.reshape(given.shape[:-1] + {action_shape})
'''
