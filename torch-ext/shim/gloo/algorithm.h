// Nothing of it is needed here. See context.h for why this directory exists.
#pragma once
