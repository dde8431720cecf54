#define SAB_ISA generic
#include "model/fast/kernels.h"
