// The table of algorithms. Adding one here gives it its loops, its torch op and its fake kernel.
#pragma once

#include "adabelief.h"
#include "adadelta.h"
#include "adagrad.h"
#include "adam.h"
#include "adamax.h"
#include "adan.h"
#include "adopt.h"
#include "asgd.h"
#include "ema.h"
#include "lamb.h"
#include "laprop.h"
#include "lars.h"
#include "lion.h"
#include "momentum.h"
#include "nadam.h"
#include "novograd.h"
#include "radam.h"
#include "rmsprop.h"
#include "rprop.h"
#include "sgd.h"

namespace onepass {

template <class... Rule>
struct Family {};

// Each family is compiled on its own, for the CPU and for devices.
using Classic = Family<SGD, Momentum, Adagrad, RMSprop, Adadelta, Rprop, ASGD>;
using AdamFamily = Family<Adam, AdamW, Adamax, NAdam, RAdam>;
using Recent = Family<LaProp, AdaBelief, Adan, Lion, ADOPT>;
using Layerwise = Family<LARS, NovoGrad, LAMB, EMA>;

template <class... Each>
struct FamilyList {};

// The table's order is that of the families and of the rules in them.
using Families = FamilyList<Classic, AdamFamily, Recent, Layerwise>;

}  // namespace onepass
